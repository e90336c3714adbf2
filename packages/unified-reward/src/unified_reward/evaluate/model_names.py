"""Names of models: as given, or the shortest end of their path that tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unified_reward.core.errors import ConfigError


def split_name(text: str) -> tuple[str | None, str]:
    """Split ``NAME=REFERENCE``; no name where the text is a path that is there.

    >>> split_name("mine=runs/7"), split_name("runs/7")
    (('mine', 'runs/7'), (None, 'runs/7'))

    Raises:
        ConfigError: Nothing follows the name.
    """
    name, equals, reference = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    if not reference:
        raise ConfigError(f"{text!r} has no path; give NAME=PATH")
    return name, reference


def distinct_names(models: Sequence[tuple[str | None, Sequence[str]]]) -> list[str]:
    """Name models by the last part of their path, or by as many as tell equal ones apart.

    >>> distinct_names([(None, ("runs", "a", "images")), (None, ("runs", "b", "images"))])
    ['a-images', 'b-images']

    Args:
        models: Name as given, or None, and the parts of the path of each.

    Raises:
        ConfigError: Two models have one name or path, or a name is none.
    """
    paths = Counter(parts for given, parts in models if given is None)
    for parts, n in paths.items():
        if n > 1:
            raise ConfigError(f"{Path(*parts)} is given {n} times; give each model once")
    names = [given or parts[-1] for given, parts in models]
    depth = 1
    while repeated := {name for name, n in Counter(names).items() if n > 1}:
        depth += 1
        longer = [
            "-".join(parts[-depth:]) if name in repeated and given is None else name
            for name, (given, parts) in zip(names, models, strict=True)
        ]
        if longer == names:
            raise ConfigError(
                f"two models have the name {min(repeated)!r}; give them names: NAME=PATH"
            )
        names = longer
    for name in names:
        if not name or name[0] == "." or not name.isprintable() or {*"/\\|"} & {*name}:
            raise ConfigError(
                f"{name!r} is no name of a model: it is of one line, without / and |, and does not "
                "begin with a dot; give another: NAME=PATH"
            )
    return names
