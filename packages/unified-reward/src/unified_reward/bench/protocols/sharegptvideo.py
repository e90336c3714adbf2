"""ShareGPTVideo: the better-scored of two answers about a clip.

The 1,000 pairs that UnifiedReward is tested on are not released, so that its figures cannot be
computed again; this is over the pairs at hand, which are those of its training.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
from unified_reward.bench.protocols.files import official_files


PROTOCOLS = (
    Benchmark(
        "sharegptvideo",
        "Share of pairs of answers about a clip whose better-scored one is named.",
        "https://arxiv.org/abs/2404.01258",
        official_files("sharegptvideo_pair", "pairwise/train_data.json", "*.json", "*.jsonl"),
        pairwise_metrics,
        hub="CodeGoat24/ShareGPTVideo-DPO",
    ),
)
