"""Multimodal RewardBench: the better of two answers about an image, by category.

Its official script asks in one order, that of the rows, and replaces an unreadable verdict by
a random one; here half of the items are swapped and unreadable verdicts are wrong. A part of its
5,211 items (Hateful Memes) is not released. An id is ``<category>:<ID>``.
"""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark, grouped_pairwise_metrics
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.samples import Example


_SPLIT = {"safety": ("pairs", "bias", "toxicity"), "reasoning": ("math", "math", "coding")}
"""Categories reported in two parts: start of the ids of the first part, names of both parts."""


def _category(example: Example) -> str:
    category = example.tags["category"]
    name = example.id.removeprefix(f"{category}:")
    if category not in _SPLIT:
        return category
    start, part, other = _SPLIT[category]
    return f"{category}/{part if name.lower().startswith(start) else other}"


BENCHMARKS = (
    Benchmark(
        "multimodal_rewardbench",
        "Share of items whose better answer is named, by category and over all; a tie is wrong.",
        "https://arxiv.org/abs/2502.14191",
        official_files("multimodal_rewardbench", "data/all_data.json", "all_data.json"),
        grouped_pairwise_metrics,
        group=_category,
    ),
)
