"""FETV: generated videos rated by three people, scored by the judge one at a time.

Pairs are made of the scores: every two generated videos of one prompt (real ones left out) that
people rate differently in alignment and that both lie in the folder; `pair_accuracy_all` takes
missing ones too. An id is ``<prompt>:<model>``, the prompt by its line from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    JudgedItem,
    Metrics,
    correlation_metrics,
    probability_metrics,
    score_value,
)
from unified_reward.bench.metrics import Metric, mean_metric
from unified_reward.bench.protocols.official import official_files


_HEADLINE = "alignment"
_REAL = "ground-truth"


def _pairs(items: Sequence[JudgedItem], aspect: str) -> Iterator[tuple[JudgedItem, JudgedItem]]:
    prompts: dict[str, list[JudgedItem]] = {}
    for item in items:
        if item.example.tags["model"] != _REAL:
            prompts.setdefault(item.example.tags["prompt"], []).append(item)
    for videos in prompts.values():
        for pair in combinations(videos, 2):
            if pair[0].target.aspects[aspect] != pair[1].target.aspects[aspect]:
                yield pair


def _accuracy(
    items: Sequence[JudgedItem], aspect: str, counts: Callable[[JudgedItem], bool] = lambda _: True
) -> Metric:
    points: list[float] = []
    prompts: list[str] = []
    for first, second in _pairs(items, aspect):
        if counts(first) and counts(second):
            a, b = score_value(first.verdict, aspect), score_value(second.verdict, aspect)
            better = first.target.aspects[aspect] > second.target.aspects[aspect]
            points.append(float(a is not None and b is not None and (a > b if better else a < b)))
            prompts.append(first.cluster)
    return mean_metric(points, prompts)


def _has_file(item: JudgedItem) -> bool:
    video: Any = item.example.sample.candidates[0]
    return isinstance(video.source, Path) and video.source.is_file()


def _figures(items: Sequence[JudgedItem], aspect: str) -> Metrics:
    return {
        "pair_accuracy": _accuracy(items, aspect, _has_file),
        "pair_accuracy_all": _accuracy(items, aspect),
        **correlation_metrics(items, lambda target: target.aspects[aspect], aspect),
    }


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    aspects = dict.fromkeys(name for item in items for name in item.target.aspects)
    groups = {name: _figures(items, name) for name in aspects}
    unreadable = probability_metrics(items)["unreadable"]
    return BenchmarkMetrics({**groups.get(_HEADLINE, {}), "unreadable": unreadable}, groups)


BENCHMARKS = (
    Benchmark(
        "fetv",
        "Rank correlation of scores with the mean rating of three people, and the share of pairs "
        "of videos of one prompt in their order of alignment; equal scores are wrong.",
        "https://arxiv.org/abs/2311.01813",
        official_files("fetv", "human_ratings_all.jsonl"),
        _compute_metrics,
    ),
)
