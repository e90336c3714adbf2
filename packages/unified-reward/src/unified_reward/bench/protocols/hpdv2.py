"""HPD v2's test set: rankings of 9 or 10 pictures by ten people, averaged."""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward.bench.protocols.files import official_files
from unified_reward.core.verdicts import Preferred


def mean_by_prompt(items: Sequence[JudgedItem]) -> Metric:
    """Mean over prompts of the share of pairs that are not in the wrong order.

    A pair that people rank alike is right whatever is said, as in the official code. One that the
    judge holds for equal, or cannot tell, is wrong; the official code breaks such ties by place.
    """
    points: dict[str, list[float]] = {}
    for one in items:
        winner = one.verdict.winner if isinstance(one.verdict, Preferred) else None
        ranking = one.record.id.rpartition(":")[0]
        points.setdefault(ranking, []).append(float(one.target.winner in ("tie", winner)))
    shares = [sum(each) / len(each) for each in points.values()]
    return Metric(sum(shares) / len(shares), mean_interval(shares, [*points]), len(shares))


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    return BenchmarkMetrics({"mean_by_prompt": mean_by_prompt(items), **pair_metrics(items)}, {})


PROTOCOLS = (
    Benchmark(
        "hpdv2",
        "Mean over prompts of the share of pairs of pictures that are not put in the wrong order.",
        "https://arxiv.org/abs/2306.09341",
        official_files("hpdv2", "test.json", media="test"),
        _measure,
        headlines=("mean_by_prompt",),
        hub="ymhao/HPDv2",
    ),
)
