"""ImageReward's test set: 466 rankings of 4 to 9 images, taken pair by pair.

Every pair of different ranks counts alike, whatever its prompt, and a tie of the judge is wrong.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
from unified_reward.bench.protocols.official import official_files


BENCHMARKS = (
    Benchmark(
        "imagereward",
        "Share of pairs of images of different rank whose better one is named; a tie is wrong.",
        "https://arxiv.org/abs/2304.05977",
        official_files("imagereward", "data/test.json", "test.json", media="data/test_images"),
        pairwise_metrics,
    ),
)
