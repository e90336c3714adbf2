"""NLVR: sentences that people wrote, each true of some pictures and false of others.

Not a preference: of two pictures, the sentence is true of one.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
from unified_reward.bench.protocols.files import official_files


PROTOCOLS = (
    Benchmark(
        "nlvr",
        "Share of pairs of pictures in which the one is named of which the sentence is true.",
        "https://aclanthology.org/P17-2034",
        official_files("nlvr", "dev.json", "test.json"),
        pairwise_metrics,
    ),
)
