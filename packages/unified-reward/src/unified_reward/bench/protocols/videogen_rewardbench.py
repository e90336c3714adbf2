"""VideoGen-RewardBench: which of two generated clips is better, overall and by three aspects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    JudgedItem,
    Metrics,
    pair_metrics,
)
from unified_reward.bench.metrics import Metric, pair_accuracy
from unified_reward.bench.protocols.files import official_files
from unified_reward.core.verdicts import Preferred, Verdict, Winner


_WINNERS: dict[float, Winner] = {1.0: "first", 0.5: "tie", 0.0: "second"}


def _of(verdict: Verdict, aspect: str) -> tuple[Verdict, bool]:
    """The verdict on an aspect where the judge gives one, else the overall one."""
    share = verdict.aspects.get(aspect) if isinstance(verdict, Preferred) else None
    return (verdict, False) if share is None else (Preferred(share, 0.0, 1 - share), True)


def _aspect(items: Sequence[JudgedItem], aspect: str) -> Metrics:
    told = [(one, one.target.aspects[aspect]) for one in items if aspect in one.target.aspects]
    said = [_of(one.verdict, aspect) for one, _ in told]
    labels: list[Winner] = [_WINNERS[share] for _, share in told]
    clusters = [one.cluster for one, _ in told]
    verdicts = [verdict for verdict, _ in said]
    found: Metrics = {
        "pair_accuracy": pair_accuracy(verdicts, labels, clusters=clusters, judge_ties="wrong"),
        "calibrated_accuracy": pair_accuracy(
            verdicts, labels, clusters=clusters, human_ties="keep", judge_ties="calibrated"
        ),
        "calibrated_accuracy_same_items": pair_accuracy(
            verdicts,
            labels,
            clusters=clusters,
            human_ties="keep",
            judge_ties="calibrated",
            tie_split="same",
        ),
    }
    by = "aspect" if any(has_own for _, has_own in said) else "overall"
    return {name: _said_by(metric, by) for name, metric in found.items()}


def _said_by(metric: Metric, by: str) -> Metric:
    return replace(metric, how={**metric.how, "verdict": by})


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    overall = [one for one in items if one.target.winner]
    aspects = dict.fromkeys(name for one in items for name in one.target.aspects)
    groups = {name: _aspect(items, name) for name in aspects}
    return BenchmarkMetrics(pair_metrics(overall), groups)


PROTOCOLS = (
    Benchmark(
        "videogen_rewardbench",
        "Share of comparisons whose better clip is named, without ties and with them, overall and "
        "of visual quality, motion quality and text alignment.",
        "https://arxiv.org/abs/2501.13918",
        official_files("videogen_rewardbench", "videogen-rewardbench.csv", "*.csv"),
        _measure,
        hub="KwaiVGI/VideoGen-RewardBench",
    ),
)
