"""VideoRewardBench: the better of two answers about a video, by dimension.

The overall figure is over all 1,563 items. Its treatment of ties and unreadable verdicts is
published nowhere we could read; here both are wrong. An id is ``<dimension>:<id>``.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, grouped_pairwise_metrics
from unified_reward.bench.protocols.official import official_files


BENCHMARKS = (
    Benchmark(
        "videorewardbench",
        "Share of items whose better answer about a video is named, by dimension and over all.",
        "https://arxiv.org/abs/2509.00484",
        official_files("videorewardbench", "*.json", "*.jsonl", "data/*.parquet"),
        grouped_pairwise_metrics,
        group=lambda example: example.tags["dimension"],
        hub="Dragonriser/VideoRewardBench",
    ),
)
