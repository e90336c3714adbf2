"""Values that a shell completes; imports no torch, opens no file of rows, asks no network."""

from __future__ import annotations

from collections.abc import Iterator

from unified_reward.core.extensions import checkpoints, extensions


def judges() -> Iterator[str]:
    """References of judges by name, and the beginnings of those that a name is part of."""
    from unified_reward.judges.scripted import KINDS
    from unified_reward.scorers import CHECKLISTS, scorer_names

    yield from (name for name, _ in checkpoints("judge"))
    yield from extensions("judges")
    yield from (f"scripted:{kind}" for kind in (*KINDS, "perfect"))
    yield from (f"{name}:" for name in (*scorer_names(), *CHECKLISTS, "table"))


def scorers() -> Iterator[str]:
    """Names of published scorers."""
    from unified_reward.scorers import scorer_names

    yield from scorer_names()


def policies() -> Iterator[str]:
    """Policies by name."""
    yield from (name for name, _ in checkpoints("policy"))


def families() -> Iterator[str]:
    """Prompt families, of this library and official ones."""
    from unified_reward.prompts import FAMILIES, official

    yield from sorted({*FAMILIES, *official.FAMILIES, *extensions("families")})


def benchmarks() -> Iterator[str]:
    """Benchmarks by name."""
    from unified_reward.bench.registry import benchmark_names

    yield from benchmark_names()


def sources() -> Iterator[str]:
    """Layouts of data."""
    from unified_reward.data.sources.table import SOURCES

    yield from sorted({"records", *SOURCES, *extensions("sources")})


def recipes() -> Iterator[str]:
    """Installed recipes."""
    from unified_reward.recipes.installed import installed_recipes

    yield from sorted(installed_recipes())


def dtypes() -> Iterator[str]:
    """Dtypes of weights."""
    yield from ("float32", "bfloat16", "float16")
