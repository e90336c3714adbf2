"""Running a benchmark: items asked in chunks, verdicts kept one a row, figures made of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkOptions,
    JudgedItem,
    Metrics,
    item_hash,
)
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.io.journal import Journal
from unified_reward.io.run_config import check_run_config
from unified_reward.io.verdict_rows import read_verdict, verdict_row


VERDICTS = "verdicts.jsonl"
_CHUNK = 64


class Items(NamedTuple):
    """The items of a benchmark."""

    records: list[Example]
    broken: list[str]
    """What is wrong with the rows of its files that are no items."""


class Result(NamedTuple):
    """What a benchmark gave."""

    report: dict[str, Any]
    """The bench JSON of the package."""
    items: list[JudgedItem]


def read_items(protocol: Benchmark, data: Path | None, how: BenchmarkOptions) -> Items:
    """The items of a benchmark in a folder.

    Raises:
        ConfigError: It needs a folder, and there is none.
        DataError: There is no file of this benchmark, or no usable row in it.
    """
    records: dict[str, Example] = {}
    broken: list[str] = []
    for row in protocol.rows(data, how):
        if isinstance(row.content, Failed):
            broken.append(f"row {row.line}: {row.content.error}")
        elif row.id in records:
            broken.append(f"row {row.line}: id {row.id!r} stands in another file already")
        elif isinstance(row.content, Example):
            records[row.id] = row.content
    if not records:
        told = f"; {broken[0]}" if broken else ""
        raise DataError(f"{data} holds no item of {protocol.name}{told}")
    return Items([*records.values()], broken)


def run(
    protocol: Benchmark,
    judge: BaseJudge,
    items: Items,
    how: BenchmarkOptions,
    *,
    out: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Benchmark a judge.

    Args:
        protocol: The benchmark.
        judge: Anything that judges.
        items: Of the benchmark.
        how: Orders, votes and seed.
        out: Folder for ``verdicts.jsonl`` and ``report.json``; a run that was stopped goes on.
        progress: Called with the number of items just judged.

    Raises:
        ConfigError: ``out`` holds verdicts of a run with other settings.
        DataError: The disk is full; what was judged stays.
    """
    journal, told = None, dict[str, Verdict]()
    if out:
        file = out / VERDICTS
        check_run_config(file, {"benchmark": protocol.name, "judge": judge.name, **asdict(how)})
        journal = Journal(file)
        told = {row["id"]: read_verdict(row) for row in read_rows(file)}
    judged: list[JudgedItem] = []
    for start in range(0, len(items.records), _CHUNK):
        chunk = items.records[start : start + _CHUNK]
        todo = [one for one in chunk if one.id not in told]
        told |= zip([one.id for one in todo], _ask(protocol, judge, todo, how), strict=True)
        done = [JudgedItem(one, protocol.group(one), told[one.id]) for one in chunk]
        if journal:
            journal.append([_row(one, judge) for one in done if one.record.id not in journal.done])
        judged += done
        progress(len(chunk))
    report = _report(protocol, judge, how, judged, items.broken)
    if out:
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        (out / "report.json").write_text(text + "\n", "utf-8")
    return Result(report, judged)


def _report(
    protocol: Benchmark,
    judge: BaseJudge,
    how: BenchmarkOptions,
    judged: Sequence[JudgedItem],
    broken: Sequence[str],
) -> dict[str, Any]:
    metrics, groups = protocol.measure(judged)
    verdicts = [one.verdict for one in judged]
    return {
        "name": protocol.name,
        "judge": judge.name,
        "family": judge.family,
        "orders": how.orders,
        "seed": how.seed,
        "n": len(judged),
        "n_unparsed": sum(isinstance(one, Unparsed) for one in verdicts),
        "n_failed": sum(isinstance(one, Failed) for one in verdicts),
        **({"n_broken_rows": len(broken)} if broken else {}),
        **({"votes": how.votes} if how.votes else {}),
        "metrics": _rows(metrics),
        "groups": {name: _rows(group) for name, group in groups.items()},
    }


def _rows(metrics: Metrics) -> dict[str, Any]:
    return {name: metric.row() for name, metric in metrics.items()}


def _ask(
    protocol: Benchmark, judge: BaseJudge, records: Sequence[Example], how: BenchmarkOptions
) -> list[Verdict]:
    """Verdicts as if every item was asked as it stands in the file."""
    samples = [one.sample for one in records]
    turned = [
        protocol.exchange
        and not judge.order_free
        and sample.form == "compare"
        and item_hash(f"exchange {sample.id}", how.seed) % 2 == 0
        for sample in samples
    ]
    asked = [one.swapped() if turn else one for one, turn in zip(samples, turned, strict=True)]
    verdicts = judge.ask(asked, orders=2 if how.votes else how.orders)
    found = [
        one.mirrored() if turn and isinstance(one, Preferred) else one
        for one, turn in zip(verdicts, turned, strict=True)
    ]
    if how.votes:
        names = [one.id for one in samples]
        found = [
            majority_vote(one, how.votes, item_hash(n, how.seed))
            for one, n in zip(found, names, strict=True)
        ]
    return found


def majority_vote(verdict: Verdict, votes: int, seed: int) -> Verdict:
    """The majority of votes, each in an order drawn by lot; one order is answered always alike.

    Of equally many votes for two outcomes, a tie.
    """
    if not isinstance(verdict, Preferred) or not verdict.orders:
        return verdict
    drawn = np.random.default_rng(seed).integers(len(verdict.orders), size=votes)
    counts = Counter(verdict.orders[int(i)].winner for i in drawn)
    (winner, most), *others = counts.most_common()
    if any(n == most for _, n in others):
        winner = "tie"
    first, tie, second = (float(winner == name) for name in ("first", "tie", "second"))
    return Preferred(first, tie, second, text=verdict.text, orders=verdict.orders)


def _row(item: JudgedItem, judge: BaseJudge) -> dict[str, Any]:
    """A verdict row with what the item is held against."""
    record = item.record
    row = verdict_row(record.id, item.verdict, judge=judge.name, family=judge.family)
    target = record.target
    return row | {
        "benchmark": {
            "group": item.group,
            "cluster": item.cluster,
            "winner": target.winner,
            "score": target.score,
            "aspects": dict(target.aspects),
        }
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of verdicts; none where there is no file."""
    if not file.exists():
        return []
    with file.open("rb") as lines:
        return [json.loads(line) for line in lines]
