"""Stages: the parts of a recipe, and how one is run unless it is done already."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, load_extension, missing_hint
from unified_reward.core.samples import Example
from unified_reward.io.atomic import write_bytes, write_json, written
from unified_reward.io.config import as_data
from unified_reward.io.fingerprints import example_fingerprint, file_fingerprint, text_fingerprint
from unified_reward.io.rows import read_examples
from unified_reward.io.text import read_json, read_text
from unified_reward.judges.card import CARD
from unified_reward.judges.files import checkpoint_files


Log = Callable[[str], None]
_VERSION = "2-"
"""Begins the hash of a stage; another one where what it looks at changes."""
_RECORDS = (CARD, "report.json", "started", "config.yaml", "environment.json")
"""Files of a stage's folder that are not part of what it made."""
BUILT_IN = ("judge", "calibration", "bench", "dpo", "grpo", "think")


@dataclass(frozen=True)
class Recipe:
    """A run: its folder, and its stages in the order in which they run."""

    out: Path
    """Folder of the run; each stage has a folder in it."""
    stages: Mapping[str, Any]
    """The configuration of each stage by its name."""


@dataclass(frozen=True)
class Stage:
    """One kind of stage, added by the entry-point group ``unified_reward.stages``."""

    name: str
    config: type
    """Frozen dataclass of its options."""
    run: Callable[[Any, Run], None]
    """Runs it by `Run.stage`, and adds to ``Run.products`` and ``Run.figures``."""
    check: Callable[[Any, Recipe], None] = lambda *_: None
    """Raises ConfigError, before any stage runs, where the recipe cannot work."""
    dry_run: Callable[[Any, str], Any] | None = None
    """Builds everything but the weights; given the options and a launcher's configuration."""
    every_process: bool = False
    """Runs in all processes of a launcher, as training does; others run in the first alone."""


def find_stage(name: str) -> Stage:
    """The stage of a name.

    Raises:
        ConfigError: There is none; lists those there are.
    """
    if name in BUILT_IN:
        return getattr(import_module("unified_reward.recipes.stages"), name.upper())
    stage = load_extension("stages", name)
    if stage is None:
        known = ", ".join([*BUILT_IN, *extensions("stages")])
        raise ConfigError(f"no stage {name!r}; there are {known}{missing_hint(name)}")
    return stage


@dataclass
class Run:
    """State that the stages of a run share."""

    recipe: Recipe
    log: Log
    reports: dict[str, Any] = field(default_factory=dict[str, Any])
    """The report of each stage that is done, by its name."""
    products: dict[str, Path] = field(default_factory=dict[str, Path])
    """The checkpoint that each stage made, by its name: ``base``, ``judge``, …"""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    """Figures for the report of the run, by their names there."""

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return self.recipe.out

    def stage(
        self,
        name: str,
        config: Any,
        inputs: Sequence[str | Path],
        product: Path,
        work: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Run a stage, unless it is done with the same configuration and inputs.

        Args:
            name: Folder of the stage below that of the run.
            config: Its options; together with ``inputs`` they decide whether it is done.
            inputs: Files and folders that it is made of, which count by content, of a file of rows
                also the media in it.
            product: A file or folder that exists when it is done.
            work: Does it, and returns its report.

        Raises:
            ConfigError: The stage would overwrite one of its inputs, or what an earlier version
                made.
        """
        from accelerate import PartialState

        folder = self.out / name
        for source in inputs:
            if Path(source).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"{name} would overwrite its own input {source}; "
                    f"name another folder than out={self.out}"
                )
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
        file = folder / "report.json"
        digest = _hash(as_data(config), inputs)
        known = read_json(file) if file.exists() else {}
        _refuse_earlier(folder, known)
        if known.get("hash") == digest and product.exists():
            self.log(f"{name}: already done, in {folder}")
            self.reports[name] = known
            return
        self.log(f"{name}: {folder}")
        if PartialState().is_main_process:
            _clear(folder, digest, self.log)
        report = {**work(), "hash": digest}
        if PartialState().is_main_process:
            write_bytes(folder / "config.yaml", yaml.safe_dump(as_data(config)).encode())
            write_json(folder / "environment.json", _environment())
            write_json(file, report)
        self.reports[name] = report


def _refuse_earlier(folder: Path, known: Mapping[str, Any]) -> None:
    """Refuse what another version made, which would be deleted, as nobody knows its inputs."""
    started = folder / "started"
    digest = known.get("hash") or (read_text(started) if started.exists() else _VERSION)
    if not digest.startswith(_VERSION):
        raise ConfigError(
            f"{folder} was made by an earlier version, which looked at less of its inputs; name "
            "another folder by out=, or delete this one"
        )


def _clear(folder: Path, digest: str, log: Callable[[str], None]) -> None:
    """Delete what another configuration left; a killed run of this one resumes from its own."""
    started = folder / "started"
    with written(folder):
        if started.exists() and read_text(started) != digest:
            if len([*folder.iterdir()]) > 1:
                log(f"{folder} is replaced: it was made with other options or inputs")
            shutil.rmtree(folder)
            folder.mkdir()
        (folder / "report.json").unlink(missing_ok=True)
    write_bytes(started, digest.encode())


def _hash(config: Any, inputs: Sequence[str | Path]) -> str:
    found: list[Any] = []
    for source in map(Path, inputs):
        if source.is_dir():
            files = checkpoint_files(source).items()
            # A stage adds to its folder when it is done, and calibration writes into a judge's.
            found.append({name: value for name, value in files if name not in _RECORDS})
        else:
            found.append([str(source), file_fingerprint(source), *_media(source)])
    return _VERSION + text_fingerprint(json.dumps([config, found], sort_keys=True))


def _media(file: Path) -> list[str]:
    """Fingerprints of the media in a file of rows; none of another file."""
    if file.suffix != ".jsonl" or not file.is_file():
        return []
    examples = (row.content for row in read_examples(file, strict=False))
    reads = ("context", "candidates")
    return [example_fingerprint(one, reads) for one in examples if isinstance(one, Example)]


def _environment() -> dict[str, str]:
    packages = ("unified-reward", "torch", "transformers", "trl", "accelerate", "numpy")
    versions = {name: version(name) for name in packages}
    return {"python": sys.version.split()[0], "machine": platform.machine(), **versions}
