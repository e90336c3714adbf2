"""Configuration of a run beside its output: a run is resumed with the same settings only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.atomic import write_json


def config_path(out: Path) -> Path:
    """Return the path of the config of a run, beside its output."""
    return out.with_name(out.name + ".config.json")


def check_run_config(out: Path, config: Mapping[str, Any]) -> None:
    """Write a run's config beside its output, or check that it is the one written there.

    The config of a run that has made no row yet, such as one whose judge could not be loaded, is
    replaced.

    Raises:
        ConfigError: The run was started with different settings; names them.
        DataError: The file cannot be read or written.
    """
    path = config_path(out)
    config = json.loads(json.dumps(config))
    try:
        if not path.exists() or not out.exists() or not out.stat().st_size:
            write_json(path, config)
            return
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    differences = [
        f"{key} was {known.get(key)!r} and is {config.get(key)!r}"
        for key in sorted(known.keys() | config.keys())
        if known.get(key) != config.get(key)
    ]
    if differences:
        raise ConfigError(
            f"{out} was started with different settings: {'; '.join(differences)}; give another "
            "output file, or the same settings"
        )
