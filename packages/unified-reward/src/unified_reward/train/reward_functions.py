"""Functions of a user's own module as rewards."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, ModelError, one_line
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Sample
from unified_reward.judges.registry import (
    DEFAULT_OPTIONS,
    JudgeOptions,
    applicable,
    kind_of,
    open_reference,
)


RewardFunction = Callable[[Sequence[Sample]], Sequence[float | None]]
"""Scores samples of one candidate each; None for a sample that it cannot score."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class RewardFunctionError(ModelError):
    """A reward function raised, or returned something else than rewards."""


def open_reward(
    reference: str, options: JudgeOptions = DEFAULT_OPTIONS
) -> BaseJudge | RewardFunction:
    """Open a judge, or import a function.

    Args:
        reference: See `open_judge`; or ``MODULE:FUNCTION``, where no judge is called so. Modules of
            the working directory are found, as by ``python -m``.
        options: Of judges, those that apply to each.

    Raises:
        ConfigError: There is neither, or the module fails to load.
    """
    if is_function(reference):
        return _load(reference)
    return open_reference(reference, applicable(reference, options))


def reward_files(reference: str) -> list[Path]:
    """Files and folders that decide rewards; of a function the file of its module alone.

    Raises:
        ConfigError: See `open_reward`.
    """
    module, _, rest = reference.partition(":")
    if is_function(reference):
        _load(reference)
        file = sys.modules[module].__file__
        return [Path(file)] if file else []
    kind = kind_of(reference)
    if kind == "checkpoint":
        return [checkpoint_path(reference)]
    return [checkpoint_path(rest)] if rest and kind in ("scorer", "checklist", "installed") else []


def is_function(reference: str) -> bool:
    """True for ``MODULE:FUNCTION``, unless a judge is called so; imports nothing."""
    if not _FUNCTION.fullmatch(reference):
        return False
    try:
        kind_of(reference)
    except ConfigError:
        return True
    return False


def _load(reference: str) -> BaseJudge | RewardFunction:
    module, _, name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = import_module(module)
    except Exception as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
            text = f"is no judge, and there is no module {missing} in {Path.cwd()}, nor installed"
            raise ConfigError(f"{reference} {text}") from error
        raise ConfigError(f"{module} cannot be imported: {_described(error)}") from error
    try:
        found = reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise ConfigError(f"{reference} does not exist: {one_line(error)}") from error
    if not isinstance(found, BaseJudge):
        _check(reference, found)
    return found


def _check(reference: str, found: Any) -> None:
    if not callable(found) or isinstance(found, type):
        kind = "a class" if isinstance(found, type) else repr(found)
        raise ConfigError(f"{reference} is {one_line(kind, 80)}, not a function of samples")
    try:
        inspect.signature(found).bind(())
    except TypeError as error:
        given = inspect.signature(found)
        raise ConfigError(
            f"{reference} takes {given}; a reward function takes a list of samples alone"
        ) from error
    except ValueError:
        return  # of a function in C nobody knows what it takes


def call_function(
    name: str, function: RewardFunction, samples: Sequence[Sample]
) -> list[float | None]:
    """Rewards of a function, which may be numbers of numpy or torch.

    Raises:
        RewardFunctionError: It raised, or returned something else than a number or None for each.
    """
    if not samples:
        return []
    try:
        values: list[Any] = [*function(samples)]
    except Exception as error:
        raise RewardFunctionError(f"{name} failed: {_described(error)}") from error
    if len(values) != len(samples):
        raise RewardFunctionError(
            f"{name} returned {len(values)} rewards of {len(samples)} samples"
        )
    return [_number(name, value) for value in values]


def _number(name: str, value: Any) -> float | None:
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, str | bool):
            raise TypeError
        return None if number is None else float(number)
    except (TypeError, ValueError, RuntimeError) as error:
        given = one_line(repr(value), 80)
        raise RewardFunctionError(f"{name} returned {given}, not a number or None") from error


def _described(error: Exception) -> str:
    """Error of a user's code, with the line that raised it."""
    text = one_line(error)
    kind = "" if text == type(error).__name__ else f"{type(error).__name__}: "
    place = extract_tb(error.__traceback__)[-1]
    return f"{kind}{text} ({place.filename}, line {place.lineno})"
