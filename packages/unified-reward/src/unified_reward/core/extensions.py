"""Extensions that other distributions add to this one, found by their entry points.

A distribution names an object in its metadata, for example
``[project.entry-points."unified_reward.scorers"]`` with ``my_scorer = "my_package:MyScorer"``, and
the name works wherever a built-in one does. Nothing is imported before its name is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from unified_reward.core.errors import ConfigError, one_line
from unified_reward.core.install import LABORATORY, install_command
from unified_reward.core.quiet import quiet_warnings


Group = Literal[
    "benchmarks",
    "checkpoints",
    "commands",
    "families",
    "judges",
    "recipes",
    "scorers",
    "series",
    "sources",
    "stages",
]
Extra = Literal["local", "train", "diffusion", "bench", "report", "serve", "arena", "ray"]
_LABORATORY_NAMES = {
    *("tiny_judge", "tiny_scalar", "tiny_base", "tiny_vlm", "tiny_image", "tiny_video"),
    *("microworld", "microworld_editing", "quickstart", "experiment", "data make"),
}


_IMPORT_ERRORS = (
    *(ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, RuntimeError),
    *(OSError, KeyError),
)
"""Errors of a module of somebody else while it is imported."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights that a distribution brings along, by a name of its own."""

    folder: Path
    kind: Literal["judge", "policy", "base"]
    note: str = ""
    """One line for the list of judges, such as what it was trained on."""


def extensions(group: Group) -> dict[str, EntryPoint]:
    """Entry points of a group by name, sorted; none of them is imported."""
    return {**_found(entry_points, group, _search_path())}


@lru_cache(maxsize=32)
def _found(
    find: Callable[..., Iterable[EntryPoint]], group: Group, _: tuple[tuple[str, int], ...]
) -> dict[str, EntryPoint]:
    """Entry points of a group: the files of all installed distributions are read for them."""
    found = find(group=f"unified_reward.{group}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def _search_path() -> tuple[tuple[str, int], ...]:
    """Folders of modules with the times of their last changes, such as an installation."""
    folders = {name: Path(name) for name in sys.path}
    return tuple((n, at.stat().st_mtime_ns if at.exists() else 0) for n, at in folders.items())


def load_extension(group: Group, name: str) -> Any:
    """The object behind a name; None where no distribution adds it.

    Raises:
        ConfigError: The distribution that adds it cannot be imported.
    """
    point = extensions(group).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except _IMPORT_ERRORS as error:
        detail = one_line(error) or type(error).__name__
        raise ConfigError(
            f"{name!r} comes with {_package(point)}, which fails to load: {detail}"
        ) from error


def wrong_type(group: Group, name: str, expected: str, given: Any) -> ConfigError:
    """The error that the object behind a name is not of the type that its group needs."""
    package = _package(extensions(group)[name])
    kind = given.__name__ if isinstance(given, type) else f"a {type(given).__name__}"
    kind = "None" if given is None else kind
    return ConfigError(f"{name!r} comes with {package}, which gives {kind} instead of {expected}")


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def checkpoints(kind: str | None = None) -> Iterator[tuple[str, Checkpoint]]:
    """Named checkpoints of all distributions, of one kind or of all, without those that fail."""
    for name in extensions("checkpoints"):
        try:
            checkpoint = find_checkpoint(name)
        except ConfigError:
            continue
        if checkpoint and kind in (None, checkpoint.kind):
            yield name, checkpoint


def find_checkpoint(name: str) -> Checkpoint | None:
    """The checkpoint of a name; None where no distribution brings it.

    Raises:
        ConfigError: The distribution fails to load, or brings something else.
    """
    checkpoint = load_extension("checkpoints", name)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise wrong_type("checkpoints", name, "a Checkpoint", checkpoint)
    return checkpoint


def checkpoint_path(reference: str | Path) -> Path:
    """The folder of a named checkpoint; any other reference as a path.

    Write ``./tiny_judge`` for a folder of your own with such a name.
    """
    checkpoint = find_checkpoint(str(reference))
    return checkpoint.folder if checkpoint else Path(reference)


def missing_hint(name: str) -> str:
    """End of a message that says what to install for a name of the laboratory.

    Empty for other names, and where the laboratory is installed.
    """
    is_installed = "tiny_judge" in extensions("checkpoints")
    if is_installed or name.partition(":")[0] not in _LABORATORY_NAMES:
        return ""
    return f"; {name} comes with the laboratory: {install_command(of=LABORATORY)}"


@contextmanager
def extra(name: Extra) -> Generator[None]:
    """Turn an import of a missing third-party module into an error that names its extra.

    Warnings of the modules about their own code are silent meanwhile, unless Python has ``-W``.

    Raises:
        ConfigError: A module that is imported in the block is not installed.

    Example:
        >>> with extra("report"):
        ...     import no_such_charts  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        unified_reward.core.errors.ConfigError: no_such_charts is not installed; this needs the \
extra [report]: pip install ...unified-reward[report]'
    """
    try:
        with quiet_warnings():
            yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "unified_reward", *sys.stdlib_module_names):
            raise
        raise ConfigError(
            f"{missing} is not installed; this needs the extra [{name}]: {install_command(name)}"
        ) from error


def require(name: Extra, module: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        name: Extra that installs it, such as ``bench``.
        module: Dotted name of the module, such as ``scipy.stats``.

    Raises:
        ConfigError: It is not installed.
    """
    with extra(name):
        return import_module(module)
