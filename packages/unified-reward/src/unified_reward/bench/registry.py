"""Benchmarks by name: the built-in ones, and those that other distributions add."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, load_extension, missing_hint


if TYPE_CHECKING:
    from unified_reward.bench.benchmark import Benchmark


_MODULES = {
    "fetv": ("fetv",),
    "genai_bench": ("genai_bench_image", "genai_bench_edit", "genai_bench_video"),
    "hpdv2": ("hpdv2",),
    "imagereward": ("imagereward",),
    "mmrb2": ("mmrb2_t2i", "mmrb2_edit", "mmrb2_interleaved", "mmrb2_reasoning"),
    "multimodal_rewardbench": ("multimodal_rewardbench",),
    "nlvr": ("nlvr",),
    "pickapic": ("pickapic", "pickapic_val500"),
    "sharegptvideo": ("sharegptvideo",),
    "videogen_rewardbench": ("videogen_rewardbench",),
    "videorewardbench": ("videorewardbench",),
    "votes": ("votes",),
    "vl_rewardbench": ("vl_rewardbench", "vl_rewardbench_published_groups"),
}
"""Names of the benchmarks in each module of `bench.protocols`, imported when it is used."""


def benchmark_names() -> list[str]:
    """Names of all benchmarks: the built-in ones, then those of other distributions."""
    built_in = [name for names in _MODULES.values() for name in names]
    return [*built_in, *(name for name in extensions("benchmarks") if name not in built_in)]


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up by its name.

    Other distributions add one with an entry point of the group ``unified_reward.benchmarks`` that
    names a `Benchmark`. A built-in name cannot be replaced.

    Raises:
        ConfigError: There is no such benchmark, or its entry point names something else.
    """
    for module, names in _MODULES.items():
        if name in names:
            protocol = import_module(f"unified_reward.bench.protocols.{module}")
            return next(found for found in protocol.BENCHMARKS if found.name == name)
    found = load_extension("benchmarks", name)
    if found is None:
        names = ", ".join(benchmark_names())
        raise ConfigError(f"no benchmark {name!r}; there are {names}{missing_hint(name)}")
    from unified_reward.bench.benchmark import Benchmark

    if not isinstance(found, Benchmark):
        raise ConfigError(
            f"the entry point of benchmark {name!r} names a {type(found).__name__}, not a Benchmark"
        )
    return found
