"""Pick-a-Pic's test set: which of two generated pictures a user kept, or neither.

Half a point where exactly one of judge and user says tie. The official script calls a tie what it
prefers by no more than a threshold, chosen on another split; here that is `calibrated_accuracy`.
"""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, mean_metric, pair_points
from unified_reward.bench.protocols.files import official_files
from unified_reward.core.verdicts import Preferred, Winner


def half_point_accuracy(items: Sequence[JudgedItem]) -> Metric:
    """Share of outcomes named, with half a point where one side alone says tie."""
    verdicts = [one.verdict for one in items]
    labels: list[Winner] = [one.target.winner or "tie" for one in items]
    prompts = [one.cluster for one in items]
    points = pair_points(verdicts, labels, clusters=prompts, human_ties="keep", judge_ties="half")
    halves = [
        0.5 if label == "tie" and not point and isinstance(verdict, Preferred) else point or 0.0
        for point, label, verdict in zip(points, labels, verdicts, strict=True)
    ]
    return mean_metric(halves, prompts)


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    return BenchmarkMetrics(
        {**pair_metrics(items), "half_point_accuracy": half_point_accuracy(items)}, {}
    )


PROTOCOLS = tuple(
    Benchmark(
        name,
        "Share of outcomes named; with half a point where one of judge and user alone says tie.",
        "https://arxiv.org/abs/2305.01569",
        official_files(name, *files),
        _measure,
        hub=hub,
    )
    for name, files, hub in (
        ("pickapic", ("data/test_unique*.parquet",), "yuvalkirstain/pickapic_v1"),
        ("pickapic_val500", ("pickapic_val500.json", "pickapic_val500_pickscore.json"), ""),
    )
)
