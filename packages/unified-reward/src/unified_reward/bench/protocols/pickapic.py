"""Pick-a-Pic's test set: the one of two generated images that a user kept, or neither.

Half a point where exactly one of judge and user has a tie. The official script calls preferences
within a threshold, chosen on another split, ties; here that is `calibrated_accuracy`.
"""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, TieRules, mean_metric, pair_points
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.verdicts import Preferred, Winner


def half_point_accuracy(items: Sequence[JudgedItem]) -> Metric:
    """Share of correct outcomes, with half a point where exactly one side has a tie."""
    verdicts = [item.verdict for item in items]
    labels: list[Winner] = [item.target.winner or "tie" for item in items]
    prompts = [item.cluster for item in items]
    points = pair_points(verdicts, labels, clusters=prompts, ties=TieRules("keep", "half"))
    halves = [
        0.5 if label == "tie" and not point and isinstance(verdict, Preferred) else point or 0.0
        for point, label, verdict in zip(points, labels, verdicts, strict=True)
    ]
    return mean_metric(halves, prompts)


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    return BenchmarkMetrics(
        {**pair_metrics(items), "half_point_accuracy": half_point_accuracy(items)}, {}
    )


BENCHMARKS = tuple(
    Benchmark(
        name,
        "Share of outcomes named; with half a point where one of judge and user alone says tie.",
        "https://arxiv.org/abs/2305.01569",
        official_files(name, *files),
        _compute_metrics,
        hub=hub,
    )
    for name, files, hub in (
        ("pickapic", ("data/test_unique*.parquet",), "yuvalkirstain/pickapic_v1"),
        ("pickapic_val500", ("pickapic_val500.json", "pickapic_val500_pickscore.json"), ""),
    )
)
