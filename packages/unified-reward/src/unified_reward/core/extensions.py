"""Extensions that other distributions add to this one, found by their entry points.

A distribution names an object in its metadata, for example
``[project.entry-points."unified_reward.scorers"]`` with ``my_scorer = "my_package:MyScorer"``, and
the name works wherever a built-in one does. Nothing is imported before its name is used.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from unified_reward.core.errors import ConfigError


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
Extra = Literal["local", "train", "diffusion", "bench", "report", "ray"]
LABORATORY = "unified-reward-lab"
_LABORATORY_NAMES = {
    *("tiny_judge", "tiny_scalar", "tiny_base", "tiny_vlm", "tiny_image", "tiny_video"),
    *("microworld", "microworld_editing", "quickstart", "experiment", "data make"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights that a distribution brings along, by a name of its own."""

    folder: Path
    kind: Literal["judge", "policy", "base"]
    note: str = ""
    """One line for the list of judges, such as what it was trained on."""


def extensions(group: Group) -> dict[str, EntryPoint]:
    """Entry points of a group by name, sorted; none of them is imported."""
    found = entry_points(group=f"unified_reward.{group}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


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
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.value
        raise ConfigError(f"{name!r} comes with {package}, which fails to load: {error}") from error


def checkpoints(kind: str | None = None) -> Iterator[tuple[str, Checkpoint]]:
    """Named checkpoints of all distributions, of one kind or of all."""
    for name in extensions("checkpoints"):
        checkpoint = load_extension("checkpoints", name)
        if kind in (None, checkpoint.kind):
            yield name, checkpoint


def checkpoint_path(reference: str | Path) -> Path:
    """The folder of a named checkpoint; any other reference as a path.

    Write ``./tiny_judge`` for a folder of your own with such a name.
    """
    checkpoint = load_extension("checkpoints", str(reference))
    return checkpoint.folder if checkpoint else Path(reference)


def missing_hint(name: str) -> str:
    """Hint to install the laboratory if the name is one of its own; empty for other names."""
    if name.partition(":")[0] not in _LABORATORY_NAMES:
        return ""
    return f"; {name} comes with the laboratory: pip install {LABORATORY}"


@contextmanager
def extra(name: Extra) -> Generator[None]:
    """Turn an import of a missing third-party module into an error that names its extra.

    Raises:
        ConfigError: A module that is imported in the block is not installed.

    Example:
        >>> with extra("report"):
        ...     import no_such_charts
        Traceback (most recent call last):
        ...
        unified_reward.core.errors.ConfigError: no_such_charts is not installed; this needs the \
extra [report]: pip install 'unified-reward[report]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "unified_reward", *sys.stdlib_module_names):
            raise
        raise ConfigError(
            f"{missing} is not installed; this needs the extra [{name}]: "
            f"pip install 'unified-reward[{name}]'"
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
