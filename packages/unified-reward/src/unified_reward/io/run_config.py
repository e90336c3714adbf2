"""The configuration of a run beside its output: a run is resumed with the same settings only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import ConfigError, DataError


def check_run_config(out: Path, config: Mapping[str, Any]) -> None:
    """Write a run's config beside its output, or check that the run to go on with had the same.

    A run that has made no row yet, such as one whose judge could not be loaded, binds nobody.

    Raises:
        ConfigError: It had another one; names what differs.
        DataError: The file cannot be read or written.
    """
    path = out.with_name(out.name + ".config.json")
    config = json.loads(json.dumps(config))
    try:
        if not path.exists() or not out.exists() or not out.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.with_name(f".{path.name}.{os.getpid()}")
            begun.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")
            begun.replace(path)
            return
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read or written: {error}") from error
    told = [
        f"{key} was {known.get(key)!r} and is {config.get(key)!r}"
        for key in sorted(known.keys() | config.keys())
        if known.get(key) != config.get(key)
    ]
    if told:
        raise ConfigError(
            f"{out} was begun otherwise: {'; '.join(told)}; give another output file, or go on "
            "with the same settings"
        )
