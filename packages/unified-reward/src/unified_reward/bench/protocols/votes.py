"""Votes of people in an arena: a judge against them, and people against each other.

There is no official script. Where raters disagree no judge agrees with all of them, so that
``judge_agreement`` stands beside ``human_agreement``, over the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    BenchmarkOptions,
    JudgedItem,
    Metrics,
    by_group,
    pair_metrics,
)
from unified_reward.bench.metrics import TieRules, pair_accuracy
from unified_reward.bench.protocols.official import sampled_rows
from unified_reward.core.errors import ConfigError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Preferred, Verdict, Winner
from unified_reward.data.pack import RECORDS, rows_of
from unified_reward.data.sources.streams import raw_rows
from unified_reward.io.rows import Row
from unified_reward.io.vote_rows import WINNERS, majority, vote_counts


_CERTAIN = {
    "first": Preferred(1.0, 0.0, 0.0),
    "tie": Preferred(0.0, 1.0, 0.0),
    "second": Preferred(0.0, 0.0, 1.0),
}


def _read_rows(path: Path | None, options: BenchmarkOptions) -> Iterator[Row]:
    if path is None or not is_file(path):
        raise ConfigError(
            "votes needs --data, the file of votes of an arena, or of records made of it"
        )
    return sampled_rows(map(_labelled, rows_of(path, source_of(path))), options)


def source_of(path: Path) -> str:
    """Name of the source of a file: ``votes`` where its first row is a vote, else ``records``."""
    if path.suffix != ".jsonl":
        return RECORDS
    rows = (value for _, value in islice(raw_rows(path), 1))
    is_votes = any(isinstance(value, dict) and "vote" in value for value in rows)
    return "votes" if is_votes else RECORDS


def _labelled(row: Row) -> Row:
    if isinstance(row.content, Example) and not row.content.target.winner:
        return replace(row, content=Failed("the row has no winner by votes"))
    return row


def _group(example: Example) -> str:
    return example.tags.get("category") or example.task.value


def _metrics(items: Sequence[JudgedItem]) -> Metrics:
    return pair_metrics(items) | agreement_metrics(items)


def agreement_metrics(items: Sequence[JudgedItem]) -> Metrics:
    """Agreement of raters, and of the judge, with the majority of the other raters of an item.

    Every vote that says anything is left out once; the majority of the others is the label, a tie
    of them is left out, and a tie against a label is wrong. A judge is as good as a single person
    where ``judge_agreement`` reaches ``human_agreement``. Empty where no item has two such votes.
    """
    people, judged = list[Verdict](), list[Verdict]()
    labels, clusters = list[Winner](), list[str]()
    for item in items:
        counts = vote_counts(item.example.raters) or {}
        for choice, winner in WINNERS.items():
            n = counts.get(choice, 0)
            label: Winner | None = majority({**counts, choice: n - 1}) if n else None
            if label is None:
                continue
            for _ in range(n):
                people.append(_CERTAIN[winner])
                judged.append(item.verdict)
                labels.append(label)
                clusters.append(item.cluster)
    if not labels:
        return {}
    ties = TieRules("skip", "wrong")
    return {
        "judge_agreement": pair_accuracy(judged, labels, clusters=clusters, ties=ties),
        "human_agreement": pair_accuracy(people, labels, clusters=clusters, ties=ties),
    }


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    return BenchmarkMetrics(_metrics(items), by_group(items, _metrics))


BENCHMARKS = (
    Benchmark(
        "votes",
        "Share of items whose better candidate by most votes is named, by category or task; and "
        "agreement of judge and single raters with the other raters.",
        "",
        _read_rows,
        _compute_metrics,
        group=_group,
        headlines=("pair_accuracy", "judge_agreement", "human_agreement"),
    ),
)
