"""Versions of packages, and the extras of this distribution; reads metadata, imports nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unified_reward.core.install import DISTRIBUTION, install_command


BASE = ""
"""Name of the requirements without an extra."""
OTHERS = (
    *("vllm", "sglang", "flash-attn", "bitsandbytes", "deepspeed", "triton", "xformers"),
    *("huggingface-hub", "decord", "unified-reward-lab"),
)
"""Packages that no extra needs, and that decide what can be done where they are installed."""


@dataclass(frozen=True)
class Package:
    """A package by its installed version, beside the versions that this distribution takes."""

    name: str
    version: str | None
    """None where it is not installed."""
    wanted: str
    """Version specifier of the distribution, such as ``<6,>=5.24``; empty for any."""
    in_range: bool | None
    """None where it is not installed."""


@dataclass(frozen=True)
class Extra:
    """An extra of the distribution: installed, or what it lacks."""

    name: str
    status: Literal["installed", "incomplete", "absent"]
    """``incomplete`` where some of its own packages are missing or of another version."""
    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    """Packages of a version out of range, such as ``trl 1.10 (<2,>=1.16)``."""
    install: str
    """Command that mends it; empty where it is installed."""


def installed(name: str) -> str | None:
    """Version of an installed distribution, else None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements() -> dict[str, list[Requirement]]:
    """Requirements of each extra that apply to this Python, those without one under `BASE`.

    An extra of extras has the requirements of all of them.
    """
    declared = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    names = dict.fromkeys(_extras(declared))
    return {name: [*_needed(declared, name)] for name in (BASE, *names)}


def _extras(declared: list[Requirement]) -> Iterator[str]:
    """Names of the extras in the order of the metadata."""
    for requirement in declared:
        marker = str(requirement.marker or "")
        _, found, rest = marker.partition("extra == ")
        if found:
            yield rest.strip('"() ').partition('"')[0]


def _needed(
    declared: list[Requirement], extra: str, above: tuple[str, ...] = ()
) -> Iterator[Requirement]:
    for requirement in declared:
        marker = requirement.marker
        is_base = marker is None or marker.evaluate({"extra": BASE})
        if (extra and is_base) or not (marker is None or marker.evaluate({"extra": extra})):
            continue
        if canonicalize_name(requirement.name) != DISTRIBUTION:
            yield requirement
            continue
        for inner in sorted(requirement.extras - {*above, extra}):
            yield from _needed(declared, inner, (*above, extra))


def package_of(requirement: Requirement) -> Package:
    """Installed version of a requirement, compared with its range."""
    found = installed(requirement.name)
    in_range = None if found is None else requirement.specifier.contains(found, prereleases=True)
    return Package(requirement.name, found, str(requirement.specifier), in_range)


def packages(needed: Mapping[str, list[Requirement]]) -> list[Package]:
    """Every package that the distribution or an extra needs, then `OTHERS`, each once."""
    unique = {canonicalize_name(each.name): each for group in needed.values() for each in group}
    known = [package_of(each) for each in unique.values()]
    others = (name for name in OTHERS if canonicalize_name(name) not in unique)
    return known + [package_of(Requirement(name)) for name in others]


def extras(needed: Mapping[str, list[Requirement]]) -> list[Extra]:
    """State of every extra of the distribution, in the order of its metadata."""
    own = {name: {canonicalize_name(each.name) for each in group} for name, group in needed.items()}
    return [_extra(name, needed[name], own) for name in needed if name != BASE]


def _extra(name: str, needed: list[Requirement], own: Mapping[str, set[Any]]) -> Extra:
    known = [package_of(each) for each in needed]
    missing = tuple(each.name for each in known if each.version is None)
    wrong = tuple(f"{each.name} {each.version} ({each.wanted})" for each in known if is_wrong(each))
    # Packages that a smaller extra brings do not tell that this one was asked for.
    smaller = [group for group in own.values() if group < own[name]]
    telling = own[name] - set().union(*smaller) or own[name]
    is_absent = telling <= {canonicalize_name(each) for each in missing}
    status = "absent" if is_absent else "incomplete" if missing or wrong else "installed"
    install = "" if status == "installed" else install_command(name, upgrade=bool(wrong))
    return Extra(name, status, missing, wrong, install)


def is_wrong(package: Package) -> bool:
    """True for an installed package whose version is out of range."""
    return package.in_range is False
