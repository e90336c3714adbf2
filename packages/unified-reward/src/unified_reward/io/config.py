"""A YAML recipe with ``a.b=c`` overrides, as a frozen dataclass checked field by field."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from unified_reward.core.errors import ConfigError, DataError, one_line
from unified_reward.io.text import read_text
from unified_reward.io.validation import describe_errors


_Config = TypeVar("_Config")


def load_config(
    kind: type[_Config], path: Path | None = None, overrides: Sequence[str] = ()
) -> _Config:
    """Read a configuration.

    Args:
        kind: The dataclass that the file describes.
        path: A YAML file; none for the defaults.
        overrides: ``a.b=value``, the value in YAML; later ones win.

    Raises:
        ConfigError: No such file, no YAML, an unknown key or a wrong value; names each.
    """
    return build_config(kind, read_config(path, overrides), str(path or "the options"))


def read_config(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a YAML file with overrides applied, not checked yet.

    Raises:
        ConfigError: No such file, no YAML, or an override that is not ``a.b=value``.
    """
    data = _read(path) if path else {}
    for override in overrides:
        _set(data, override)
    return data


def build_config(kind: type[_Config], data: Any, source: str) -> _Config:
    """A configuration from plain values.

    Raises:
        ConfigError: An unknown key or a wrong value; names each, and ``source``.
    """
    _forbid_extra(kind)
    try:
        config = TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe_errors(error, 'recipe')}") from error
    if name := next(_counted_booleans(data, config), ""):
        raise ConfigError(f"{source}: {name}: it takes a number, not true or false")
    return config


def _counted_booleans(data: Any, config: Any, name: str = "") -> Iterator[str]:
    """Names of the values that are true or false and became 1 or 0."""
    if isinstance(data, bool):
        yield from [] if isinstance(config, bool) else [name]
    elif isinstance(data, dict):
        for key, value in cast("dict[str, Any]", data).items():
            made = getattr(config, key) if dataclasses.is_dataclass(config) else config[key]
            yield from _counted_booleans(value, made, f"{name}.{key}".lstrip("."))
    elif isinstance(data, list):
        for i, (value, made) in enumerate(zip(cast("list[Any]", data), config, strict=True)):
            yield from _counted_booleans(value, made, f"{name}.{i}".lstrip("."))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = _parse_yaml(read_text(path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys and values")
    return data


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Read the keys and values of one mapping."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key.value, str) and key.value in lines:
                problem = f"the key {key.value!r} stands on lines {lines[key.value]} and {line}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key.value, str):
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def _set(data: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"an override is key=value, not {override!r}")
    *parents, last = name.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{name}: {parent} is a value, it has no keys")
    try:
        data[last] = _parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {value!r} is not YAML") from error


def _forbid_extra(kind: Any) -> None:
    """Make pydantic refuse unknown keys, NaN and infinity in a dataclass and those inside it."""
    if not dataclasses.is_dataclass(kind):
        for inner in typing.get_args(kind):
            _forbid_extra(inner)
        return
    if "__pydantic_config__" in vars(kind):
        return
    kind.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
        extra="forbid", allow_inf_nan=False
    )
    for hint in typing.get_type_hints(kind).values():
        _forbid_extra(hint)


def as_data(config: Any) -> Any:
    """Convert a configuration to plain values, ready for YAML or JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")
