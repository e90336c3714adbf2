"""VideoGen-RewardBench: the better of two generated videos, overall and by three aspects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    JudgedItem,
    Metrics,
    pair_metrics,
)
from unified_reward.bench.metrics import TieRules, pair_accuracy
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Verdict, Winner


_WINNERS: dict[float, Winner] = {
    share: cast("Winner", winner) for winner, share in WIN_SHARES.items()
}
_TIES = {
    "pair_accuracy": TieRules("skip", "wrong"),
    "calibrated_accuracy": TieRules("keep", "calibrated"),
    "calibrated_accuracy_same_items": TieRules("keep", "calibrated", "same"),
}


def _by_aspect(verdict: Verdict, aspect: str) -> tuple[Verdict, bool]:
    """Verdict on an aspect where the judge gives one (then true), else the overall verdict."""
    share = verdict.aspects.get(aspect) if isinstance(verdict, Preferred) else None
    return (verdict, False) if share is None else (Preferred(share, 0.0, 1 - share), True)


def _aspect_metrics(items: Sequence[JudgedItem], aspect: str) -> Metrics:
    labelled = [item for item in items if aspect in item.target.aspects]
    labels: list[Winner] = [_WINNERS[item.target.aspects[aspect]] for item in labelled]
    clusters = [item.cluster for item in labelled]
    verdicts = [_by_aspect(item.verdict, aspect) for item in labelled]
    used = {"verdict": "aspect" if any(has_own for _, has_own in verdicts) else "overall"}
    metrics: Metrics = {}
    for name, ties in _TIES.items():
        metric = pair_accuracy([v for v, _ in verdicts], labels, clusters=clusters, ties=ties)
        metrics[name] = replace(metric, conventions={**metric.conventions, **used})
    return metrics


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    overall = [item for item in items if item.target.winner]
    aspects = dict.fromkeys(name for item in items for name in item.target.aspects)
    return BenchmarkMetrics(
        pair_metrics(overall), {name: _aspect_metrics(items, name) for name in aspects}
    )


BENCHMARKS = (
    Benchmark(
        "videogen_rewardbench",
        "Share of comparisons whose better video is named, without ties and with them, overall and "
        "of visual quality, motion quality and text alignment.",
        "https://arxiv.org/abs/2501.13918",
        official_files("videogen_rewardbench", "videogen-rewardbench.csv", "*.csv"),
        _compute_metrics,
        hub="KwaiVGI/VideoGen-RewardBench",
    ),
)
