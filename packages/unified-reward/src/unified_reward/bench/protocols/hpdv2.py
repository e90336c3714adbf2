"""HPD v2's test set: rankings of 9 or 10 images by ten people, averaged."""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.verdicts import Preferred


def mean_by_prompt(items: Sequence[JudgedItem]) -> Metric:
    """Mean over prompts of the share of pairs that are not in the wrong order.

    A pair that people rank alike is always right, as in the official code. A tie of the judge and
    an unreadable verdict are wrong; the official code breaks such ties by position.
    """
    points: dict[str, list[float]] = {}
    for item in items:
        winner = item.verdict.winner if isinstance(item.verdict, Preferred) else None
        ranking = item.example.tags["ranking"]
        points.setdefault(ranking, []).append(float(item.target.winner in ("tie", winner)))
    shares = [sum(each) / len(each) for each in points.values()]
    return Metric(sum(shares) / len(shares), mean_interval(shares, [*points]), len(shares))


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    return BenchmarkMetrics({"mean_by_prompt": mean_by_prompt(items), **pair_metrics(items)}, {})


BENCHMARKS = (
    Benchmark(
        "hpdv2",
        "Mean over prompts of the share of pairs of images that are not put in the wrong order.",
        "https://arxiv.org/abs/2306.09341",
        official_files("hpdv2", "test.json", media="test"),
        _compute_metrics,
        headlines=("mean_by_prompt",),
        hub="ymhao/HPDv2",
    ),
)
