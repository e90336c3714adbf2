"""VL-RewardBench: the better of two answers about an image, in three groups.

Official groups are general 183, hallucination 749 and reasoning 318 of 1,250. Published scripts of
UnifiedReward count the 448 ``hallucination_pair`` items as general (631, 301, 318), so that groups
and macro average of the two are not comparable; the overall accuracy is. The release has the better
answer first in 1,245 rows, so half of the items are swapped.
"""

from __future__ import annotations

import re
from functools import partial

from unified_reward.bench.benchmark import Benchmark, grouped_pairwise_metrics
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.samples import Example


_REASONING = ("mathverse", "mmmu")
_HALLUCINATION = ("RLAIF", "RLHF")


def _group(example: Example, *, pairs: str) -> str:
    kind = re.split("[_-]", example.id)[0]
    if kind in _REASONING:
        return "reasoning"
    if kind == "hallucination":
        return pairs
    return "hallucination" if kind in _HALLUCINATION else "general"


_OFFICIAL = Benchmark(
    "vl_rewardbench",
    "Share of items whose better answer is named, in the official groups; a tie is wrong.",
    "https://arxiv.org/abs/2411.17451",
    official_files("vl_rewardbench", "VL-RewardBench_data.json", "data.json", "data/*.parquet"),
    grouped_pairwise_metrics,
    group=partial(_group, pairs="hallucination"),
    hub="MMInstruction/VL-RewardBench",
)
BENCHMARKS = (
    _OFFICIAL,
    Benchmark(
        "vl_rewardbench_published_groups",
        "Share of items whose better answer is named, in the groups of UnifiedReward's published "
        "scripts, to read its tables by.",
        "https://arxiv.org/abs/2503.05236",
        _OFFICIAL.read_rows,
        grouped_pairwise_metrics,
        group=partial(_group, pairs="general"),
        hub=_OFFICIAL.hub,
    ),
)
