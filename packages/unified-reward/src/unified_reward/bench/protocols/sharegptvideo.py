"""ShareGPTVideo: the better-scored of two answers about a video.

The 1,000 pairs that UnifiedReward is tested on are not released, so its figures cannot be
reproduced; this uses the released pairs, which it was trained on.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
from unified_reward.bench.protocols.official import official_files


BENCHMARKS = (
    Benchmark(
        "sharegptvideo",
        "Share of pairs of answers about a video whose better-scored one is named.",
        "https://arxiv.org/abs/2404.01258",
        official_files("sharegptvideo_pair", "pairwise/train_data.json", "*.json", "*.jsonl"),
        pairwise_metrics,
        hub="CodeGoat24/ShareGPTVideo-DPO",
    ),
)
