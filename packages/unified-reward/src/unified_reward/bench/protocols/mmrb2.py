"""MMRB2 (Multimodal RewardBench 2): two responses that may mix text and images, four tasks.

Its script asks in both orders and counts each judgement, right or wrong, by itself:
`judgement_accuracy`. Unreadable judgements are left out of it, and counted separately here.
`strict_accuracy` wants both orders right, which the official script does not compute.
"""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    JudgedItem,
    by_group,
    pair_metrics,
)
from unified_reward.bench.metrics import Metric, mean_metric
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.verdicts import Preferred


def _judgements(items: Sequence[JudgedItem], *, is_strict: bool) -> Metric:
    points: list[float] = []
    prompts: list[str] = []
    for item in items:
        verdict = item.verdict
        orders = (verdict.orders or (verdict,)) if isinstance(verdict, Preferred) else ()
        right = [float(each.winner == item.target.winner) for each in orders]
        if is_strict:
            right = [float(bool(right) and all(right))]
        points += right
        prompts += [item.cluster] * len(right)
    return mean_metric(points, prompts)


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    own = {
        "judgement_accuracy": _judgements(items, is_strict=False),
        "strict_accuracy": _judgements(items, is_strict=True),
    }
    return BenchmarkMetrics(own | pair_metrics(items), by_group(items, pair_metrics))


BENCHMARKS = tuple(
    Benchmark(
        f"mmrb2_{task}",
        "Share of judgements, of both orders one by one, that name the response most people chose.",
        "https://arxiv.org/abs/2512.16899",
        official_files(f"mmrb2_{task}", f"{task}.json"),
        _compute_metrics,
        headlines=("judgement_accuracy",),
        group=lambda example: example.tags["prompt_source"],
        hub="rl-research/multimodal-rewardbench-2",
    )
    for task in ("t2i", "edit", "interleaved", "reasoning")
)
