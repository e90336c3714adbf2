"""ShareGPTVideo: the better-scored of two answers about a clip.

The 1,000 pairs that UnifiedReward is tested on are not released, so that its figures cannot be
computed again; this is over the pairs at hand, which are those of its training.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Protocol, plain
from unified_reward.bench.protocols.files import official


PROTOCOLS = (
    Protocol(
        "sharegptvideo",
        "Share of pairs of answers about a clip whose better-scored one is named.",
        "https://arxiv.org/abs/2404.01258",
        official("sharegptvideo_pair", "pairwise/train_data.json", "*.json", "*.jsonl"),
        plain,
        hub="CodeGoat24/ShareGPTVideo-DPO",
    ),
)
