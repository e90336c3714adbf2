"""Processors, memory and disks of this machine, and the limits of its control groups."""

from __future__ import annotations

import math
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path


ROOT = Path("/")


@dataclass(frozen=True)
class Cpu:
    """Processors, and how many of them this process may use."""

    name: str
    cores: int | None
    """Logical processors of the machine."""
    allowed: float | None
    """The fewer of affinity and the quota of the control group; 1.5 is a core and a half."""


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; None is unknown."""

    total: int | None
    available: int | None
    """Also below the limit of the control group."""
    limit: int | None
    """Limit of the control group; None without one."""


@dataclass(frozen=True)
class Disk:
    """Space of the file system of a folder, in bytes."""

    use: str
    folder: str
    free: int | None
    total: int | None


def cpu(root: Path = ROOT) -> Cpu:
    """Processors of this machine.

    Args:
        root: Root of the file system.
    """
    allowed: list[float] = []
    if hasattr(os, "sched_getaffinity"):
        allowed.append(len(os.sched_getaffinity(0)))
    quota = _quota(root)
    allowed += [quota] if quota else []
    return Cpu(_name(root), os.cpu_count(), min(allowed, default=os.cpu_count()))


def memory(root: Path = ROOT) -> Memory:
    """Main memory, and what the control group leaves of it."""
    known = _meminfo(root)
    total, available = known.get("MemTotal"), known.get("MemAvailable")
    if total is None and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _limits(root)
    if limit is not None and total is not None and limit >= total:
        limit = None
    if limit is not None:
        left = max(limit - (used or 0), 0)
        available = left if available is None else min(available, left)
    return Memory(total, available, limit)


def disk(use: str, folder: Path) -> Disk:
    """Space for a folder; of the nearest folder above it that exists."""
    above = next((part for part in (folder, *folder.parents) if part.is_dir()), None)
    if above is None:
        return Disk(use, str(folder), None, None)
    try:
        space = shutil.disk_usage(above)
    except OSError:
        return Disk(use, str(folder), None, None)
    return Disk(use, str(folder), space.free, space.total)


def _name(root: Path) -> str:
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _meminfo(root: Path) -> dict[str, int]:
    """Entries of Linux in bytes, by name."""
    parts = [line.split() for line in _lines(root / "proc/meminfo")]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts if len(part) == 3}


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the control groups of this process for a controller, and of those above."""
    folders: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if names else "")
        folder = top / path.lstrip("/")
        folders += [folder, *(part for part in folder.parents if part.is_relative_to(top))]
    return folders


def _quota(root: Path) -> float | None:
    """Smallest quota of processors of the control groups, version 2 or 1."""
    quotas: list[float] = []
    for folder in _groups(root, "cpu"):
        both = _words(folder / "cpu.max")
        both = both or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(both) == 2 and both[0].isdigit() and int(both[1]):
            quotas.append(int(both[0]) / int(both[1]))
    return min(quotas, default=None)


def _limits(root: Path) -> tuple[int | None, int | None]:
    """Smallest limit of memory of the control groups in bytes, and what that group uses."""
    smallest: tuple[float, int | None] = (math.inf, None)
    for folder in _groups(root, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            words = _words(folder / limit)
            if words and words[0].isdigit() and int(words[0]) < smallest[0]:
                usage = _words(folder / used)
                smallest = (int(words[0]), int(usage[0]) if usage else None)
    return (None, None) if smallest[0] == math.inf else (int(smallest[0]), smallest[1])


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    """Lines of a file of the kernel; none where it cannot be read."""
    try:
        return file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
