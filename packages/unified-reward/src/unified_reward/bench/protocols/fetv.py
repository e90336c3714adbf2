"""FETV: generated clips rated by three people, scored by the judge one at a time.

Pairs are made of the scores: every two generated clips of one prompt (the real ones left out) that
people rate differently in alignment, of whose clips both lie in the folder; `pair_accuracy_all`
takes all of them. An id is ``<prompt>:<model>``, the prompt by its line from 0.
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
    said,
)
from unified_reward.bench.metrics import Metric, mean_metric
from unified_reward.bench.protocols.files import official_files


_HEADLINE = "alignment"
_REAL = "ground-truth"


def _pairs(items: Sequence[JudgedItem], aspect: str) -> Iterator[tuple[JudgedItem, JudgedItem]]:
    prompts: dict[str, list[JudgedItem]] = {}
    for one in items:
        if not one.record.id.endswith(_REAL):
            prompts.setdefault(one.record.id.partition(":")[0], []).append(one)
    for clips in prompts.values():
        for pair in combinations(clips, 2):
            if pair[0].target.aspects[aspect] != pair[1].target.aspects[aspect]:
                yield pair


def _accuracy(
    items: Sequence[JudgedItem], aspect: str, counts: Callable[[JudgedItem], bool] = lambda _: True
) -> Metric:
    points: list[float] = []
    prompts: list[str] = []
    for one, other in _pairs(items, aspect):
        if counts(one) and counts(other):
            a, b = said(one.verdict, aspect), said(other.verdict, aspect)
            better = one.target.aspects[aspect] > other.target.aspects[aspect]
            points.append(float(a is not None and b is not None and (a > b if better else a < b)))
            prompts.append(one.cluster)
    return mean_metric(points, prompts)


def _is_there(item: JudgedItem) -> bool:
    clip: Any = item.record.sample.candidates[0]
    return isinstance(clip.source, Path) and clip.source.is_file()


def _figures(items: Sequence[JudgedItem], aspect: str) -> Metrics:
    return {
        "pair_accuracy": _accuracy(items, aspect, _is_there),
        "pair_accuracy_all": _accuracy(items, aspect),
        **correlation_metrics(items, lambda target: target.aspects[aspect], aspect),
    }


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    aspects = dict.fromkeys(name for one in items for name in one.target.aspects)
    groups = {name: _figures(items, name) for name in aspects}
    unreadable = probability_metrics(items)["unreadable"]
    return BenchmarkMetrics({**groups.get(_HEADLINE, {}), "unreadable": unreadable}, groups)


PROTOCOLS = (
    Benchmark(
        "fetv",
        "Rank correlation of scores with the mean rating of three people, and the share of pairs "
        "of clips of one prompt in their order of alignment; equal scores are wrong.",
        "https://arxiv.org/abs/2311.01813",
        official_files("fetv", "human_ratings_all.jsonl"),
        _measure,
    ),
)
