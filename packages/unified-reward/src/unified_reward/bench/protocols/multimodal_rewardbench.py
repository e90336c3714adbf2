"""Multimodal RewardBench: the better of two answers about a picture, by category.

Its official script asks in one order, as the rows stand, and draws an unreadable verdict by lot;
here half of the items are exchanged and what is unreadable is wrong. A part of its 5,211 items
(Hateful Memes) is not released. An id is ``<category>:<ID>``.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, grouped_pairwise_metrics
from unified_reward.bench.protocols.files import official_files
from unified_reward.core.samples import Example


_SPLIT = {"safety": ("pairs", "bias", "toxicity"), "reasoning": ("math", "math", "coding")}
"""Of two categories: how the ids of one part begin, and the names of this part and the other."""


def _category(record: Example) -> str:
    category, _, name = record.id.partition(":")
    if category not in _SPLIT:
        return category
    start, one, other = _SPLIT[category]
    return f"{category}/{one if name.lower().startswith(start) else other}"


PROTOCOLS = (
    Benchmark(
        "multimodal_rewardbench",
        "Share of items whose better answer is named, by category and over all; a tie is wrong.",
        "https://arxiv.org/abs/2502.14191",
        official_files("multimodal_rewardbench", "data/all_data.json", "all_data.json"),
        grouped_pairwise_metrics,
        group=_category,
    ),
)
