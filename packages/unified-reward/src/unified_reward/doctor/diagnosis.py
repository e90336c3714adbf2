"""The diagnosis of a machine as one object, and what to do next."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import unified_reward
from unified_reward.core.errors import UnifiedRewardError, one_line
from unified_reward.core.install import install_command
from unified_reward.doctor import devices, machine, sizes, versions, weights
from unified_reward.doctor.self_tests import SelfTest
from unified_reward.prompts.packs import default_home
from unified_reward.scorers import scorer_names


SCHEMA = 1


@dataclass(frozen=True)
class Diagnosis:
    """State of a machine, without the self-tests."""

    packages: list[versions.Package]
    extras: list[versions.Extra]
    cpu: machine.Cpu
    memory: machine.Memory
    disks: list[machine.Disk]
    devices: list[devices.Device]
    backends: devices.Backends | None
    """None without the extra ``local``."""
    decoders: Mapping[str, Any]
    compilers: Mapping[str, str | None]
    cached: list[weights.CachedWeights]
    folders: list[weights.KnownFolder]
    problems: list[str]
    """Packages out of range, and files of the cache that cannot be read."""

    @property
    def lacking(self) -> dict[str, str]:
        """Reason that an extra is not installed, by its name; empty where it is."""
        return {extra.name: _lack(extra) for extra in self.extras}

    @property
    def places(self) -> list[tuple[str, int | None, int | None]]:
        """Name, free and total bytes of what models are loaded into: devices, else main memory."""
        found = [(each.device, each.free, each.total) for each in self.devices]
        limits = [size for size in (self.memory.total, self.memory.limit) if size is not None]
        return found or [("cpu", self.memory.available, min(limits, default=None))]


def _lack(extra: versions.Extra) -> str:
    if not extra.missing:
        return ""
    return f"[{extra.name}] lacks {', '.join(extra.missing)}: {extra.install}"


def diagnose(cache: Path | None = None) -> Diagnosis:
    """Collect what is installed and there; loads no weights and asks no network.

    Args:
        cache: Folder of the hub's cache; default by the environment.
    """
    needed = versions.requirements()
    packages, extras = versions.packages(needed), versions.extras(needed)
    cache = cache or weights.cache_folder()
    problems = [
        f"{package.name} {package.version} is out of the range {package.wanted}"
        for package in packages
        if versions.is_wrong(package)
    ]
    accelerators: list[devices.Device] = []
    cached: list[weights.CachedWeights] = []
    backends = None
    if not next((extra.missing for extra in extras if extra.name == "local"), ("local",)):
        try:
            accelerators, backends = devices.devices(), devices.backends()
            cached, broken = weights.cached_weights(cache)
            problems += broken
        except (UnifiedRewardError, ImportError, OSError, RuntimeError) as error:
            problems.append(f"local models cannot be used: {one_line(error)}")
    return Diagnosis(
        packages=packages,
        extras=extras,
        cpu=machine.cpu(),
        memory=machine.memory(),
        disks=[
            machine.disk("working folder", Path.cwd()),
            machine.disk("cache of the hub", cache),
            machine.disk("wordings", default_home()),
        ],
        devices=accelerators,
        backends=backends,
        decoders=devices.decoders(),
        compilers=devices.compilers(),
        cached=cached,
        folders=weights.known_folders(),
        problems=problems,
    )


def fits(found: Diagnosis) -> Iterator[dict[str, Any]]:
    """Rows of what fits where: every place, model, use and dtype, with the bytes it needs."""
    for place, free, total in found.places:
        for size, kind in _models():
            for use, dtype in _ways(kind):
                needed = sizes.needed_bytes(size, use, dtype)
                yield {
                    "place": place,
                    "model": size.name,
                    "kind": kind,
                    "like": size.like,
                    "parameters": None if size.parameters is None else round(size.parameters),
                    "use": use,
                    "dtype": dtype,
                    "bytes": needed,
                    "fits": sizes.fit(needed, free, total),
                }


def _models() -> Iterator[tuple[sizes.Size, str]]:
    yield from ((size, "judge") for size in sizes.JUDGES)
    yield from ((sizes.size_of(name), "system") for name in scorer_names())


def _ways(kind: str) -> Iterator[tuple[sizes.Use, sizes.Dtype]]:
    """Uses and dtypes: systems are neither quantised nor trained here."""
    for dtype in sizes.DTYPES[: 2 if kind == "system" else None]:
        yield "inference", dtype
    if kind == "judge":
        yield "lora", "bfloat16"
        yield "full", "float32"


def next_step(found: Diagnosis, tests: Sequence[SelfTest]) -> str:
    """One line: what to do next."""
    failed = next((test for test in tests if test.status == "failed"), None)
    if failed:
        upgrade = install_command(failed.extra, upgrade=True) if failed.extra else ""
        return upgrade or "unified-reward doctor --json, to report what failed"
    wrong = next((extra for extra in found.extras if extra.wrong), None)
    if wrong:
        return wrong.install
    if found.lacking.get("local"):
        return f"{install_command('local')}, to open judges on this machine"
    judges = [each for each in found.cached if each.kind == "judge"]
    usable = next((each for each in (*judges, *found.cached) if not each.missing), None)
    if usable:
        return f"unified-reward score FILE --prompt TEXT --judge {usable.reference}"
    if any(folder.name == "tiny_judge" for folder in found.folders):
        return "unified-reward score FILE --prompt TEXT --judge tiny_judge"
    return "unified-reward score FILE --prompt TEXT --judge HUB_ID, which is downloaded once"


def as_json(found: Diagnosis, tests: Sequence[SelfTest]) -> dict[str, Any]:
    """The documented object of ``doctor --json``; unknown is null, and a fit is ``unknown``."""
    return {
        "schema": SCHEMA,
        "unified_reward": unified_reward.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": [asdict(package) for package in found.packages],
        "extras": [asdict(extra) for extra in found.extras],
        "cpu": asdict(found.cpu),
        "memory": asdict(found.memory),
        "disks": [asdict(disk) for disk in found.disks],
        "devices": [asdict(device) for device in found.devices],
        "backends": asdict(found.backends) if found.backends else None,
        "decoders": dict(found.decoders),
        "compilers": dict(found.compilers),
        "cached": [asdict(each) for each in found.cached],
        "folders": [asdict(folder) for folder in found.folders],
        "fits": [*fits(found)],
        "tests": [asdict(test) for test in tests],
        "problems": found.problems,
        "next": next_step(found, tests),
    }
