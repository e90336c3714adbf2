"""NLVR: sentences that people wrote, each true of some images and false of others.

Not a preference: the sentence is true of exactly one of two images.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
from unified_reward.bench.protocols.official import official_files


BENCHMARKS = (
    Benchmark(
        "nlvr",
        "Share of pairs of images in which the one is named that the sentence is true of.",
        "https://aclanthology.org/P17-2034",
        official_files("nlvr", "dev.json", "test.json"),
        pairwise_metrics,
    ),
)
