"""Run a benchmark: ask its items chunk by chunk, write every verdict as a row, compute figures.

Items are read as they are asked, so that memory does not grow with the media of a benchmark.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward.backends.http_settings import check_route_to_hub
from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkOptions,
    JudgedItem,
    Metrics,
    item_hash,
)
from unified_reward.bench.page import write_page
from unified_reward.bench.registry import find_benchmark
from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import ConfigError, DataError, one_line
from unified_reward.core.extensions import extra
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Candidate, Example, Image, Video
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.io.atomic import write_json
from unified_reward.io.journal import FINGERPRINT, Journal, open_journal
from unified_reward.io.rows import Row
from unified_reward.io.run_config import Origin
from unified_reward.io.verdict_rows import read_verdict, read_verdict_rows, verdict_row
from unified_reward.judges.bulk import CHUNK
from unified_reward.judges.files import judge_files


VERDICTS = "verdicts.jsonl"
_N_WORST = 12


class Result(NamedTuple):
    """Result of a benchmark."""

    report: dict[str, Any]
    """Figures and counts, the "bench JSON" of the documentation."""
    items: list[JudgedItem]
    """Every item with its verdict. Media that were in memory are empty; paths are kept."""
    worst: list[JudgedItem]
    """The items whose verdicts are furthest from their labels, at most 12, with all their media."""
    broken: tuple[str, ...] = ()
    """Rows of the data that are no item, each with its reason."""


def run_benchmark(  # noqa: PLR0913  every one is an option of the command too
    name: str | Benchmark,
    judge: BaseJudge,
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    orders: Literal[1, 2] = 2,
    votes: int = 0,
    out: str | Path | None = None,
    retry_failed: bool = False,
    on_progress: Progress | None = None,
) -> Result:
    """Measure a judge on a benchmark.

    Args:
        name: Name of a benchmark (`bench.registry.benchmark_names`), or a `Benchmark`.
        judge: The judge to measure.
        data: Folder of the official files, or the hub id to download; None where items are made.
        limit: Items at most, sampled by id and seed, None for all; of ``microworld`` per cell, 200.
        seed: Random seed of the sampled items and of the half asked in swapped order.
        orders: 2 asks every comparison in both orders and averages, 1 asks once.
        votes: Majority of this many votes per comparison, each in a random order, as in
            VL-RewardBench; 0 for none. Answers repeat, so each order is asked at most once.
        out: Folder for ``verdicts.jsonl``, ``report.json`` and ``page.html`` (extra ``[report]``);
            a stopped run continues there.
        retry_failed: Ask the items again that failed in an earlier run.
        on_progress: Called with the number of items just judged.

    Returns:
        The report, accuracies and correlations with 95 % intervals, and the items judged.

    Raises:
        ConfigError: Unknown benchmark, no folder, or ``out`` is of another run.
        DataError: No usable row, or ``out`` cannot be written; verdicts written before stay.

    Example:
        >>> import unified_reward as ur
        >>> judge = ur.open_judge("scripted:first")
        >>> report = run_benchmark("microworld", judge, limit=1).report  # 8 cells of one item
        >>> report["n"], report["metrics"]["consistency"]["value"]
        (8, 0.0)
    """
    benchmark = find_benchmark(name) if isinstance(name, str) else name
    options = BenchmarkOptions(limit, seed, orders, votes)
    read = partial(benchmark.read_rows, data_folder(data), options)
    broken, judged, worst = list[str](), list[JudgedItem](), list[JudgedItem]()
    origin = _origin(benchmark, judge, options)
    with _resumed(out, origin, read, retry_failed=retry_failed) as journal:
        examples = _usable(read(), broken)
        chunks = _judge_chunks(benchmark, judge, examples, options, journal, origin, on_progress)
        for items in chunks:
            worst = heapq.nlargest(_N_WORST, [*worst, *items], key=lambda item: item.disagreement)
            judged += [item._replace(example=_without_pixels(item.example)) for item in items]
        if not judged:
            raise DataError("; ".join([f"{data} holds no item of {benchmark.name}", *broken[:1]]))
        report = _report(benchmark, judge, options, judged, len(broken))
        if out:
            _write(benchmark, report, worst, Path(out))
    return Result(report, judged, worst, tuple(broken))


@contextmanager
def _resumed(
    out: str | Path | None,
    origin: Origin,
    read: Callable[[], Iterator[Row]],
    *,
    retry_failed: bool,
) -> Iterator[Journal | None]:
    """The journal of a run, locked; None for a run without a folder."""
    if not out:
        yield None
        return
    with open_journal(Path(out) / VERDICTS) as journal:
        origin.resume(journal, lambda: map(_row_of, _usable(read(), [])), retry_failed=retry_failed)
        origin.check(journal)
        yield journal


def _write(
    benchmark: Benchmark, report: dict[str, Any], worst: Sequence[JudgedItem], folder: Path
) -> None:
    write_json(folder / "report.json", report)
    write_page(benchmark, report, worst, folder / "page.html")


def _origin(benchmark: Benchmark, judge: BaseJudge, options: BenchmarkOptions) -> Origin:
    config = {"benchmark": benchmark.name, "judge": judge.name, "family": judge.family}
    files: Callable[[], Mapping[str, str]] = dict
    if judge.origin:
        config |= judge.origin[1].settings()
        files = partial(judge_files, *judge.origin)
    reads = ("task", "prompt", "candidates", "context", "criteria", "target", "tags")
    return Origin(config | asdict(options), files, reads)


def data_folder(data: str | Path | None) -> Path | None:
    """Folder of the official files; a hub id ``org/name`` that is not a folder is downloaded.

    Raises:
        ConfigError: There is no such folder, and it is not a hub id or cannot be downloaded.
    """
    if not data or is_folder(data) or is_file(data):
        return Path(data) if data else None
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(data)):
        raise ConfigError(f"there is no file or folder {data}, and it is not a hub id (org/name)")
    with extra("local"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_route_to_hub()
    try:
        return Path(snapshot_download(str(data), repo_type="dataset"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(
            f"{data} is not a folder, and cannot be downloaded: {one_line(error)}"
        ) from error


def _usable(rows: Iterator[Row], broken: list[str]) -> Iterator[Example]:
    """Examples of the rows; what is wrong with the other rows is appended to ``broken``."""
    seen: dict[str, int] = {}
    for row in rows:
        if isinstance(row.content, Failed):
            broken.append(f"row {row.line}: {row.content.reason}")
        elif row.id in seen:
            broken.append(f"row {row.line}: duplicate id {row.id!r}, that of row {seen[row.id]}")
        elif len(row.content.candidates) not in (1, 2):
            n = len(row.content.candidates)
            broken.append(f"row {row.line}: a benchmark item has 1 or 2 candidates, not {n}")
        else:
            seen[row.id] = row.line
            yield row.content


def _row_of(example: Example) -> Row:
    return Row(0, example.id, example)


def _judge_chunks(
    benchmark: Benchmark,
    judge: BaseJudge,
    examples: Iterator[Example],
    options: BenchmarkOptions,
    journal: Journal | None,
    origin: Origin,
    on_progress: Progress | None,
) -> Iterator[list[JudgedItem]]:
    """Judge examples chunk by chunk; the verdicts of a chunk are on disk before it is yielded."""
    verdicts: dict[str, Verdict] = {}
    if journal and journal.done:
        verdicts |= {row["id"]: _written_verdict(row) for row in read_verdict_rows(journal.path)}
    while chunk := list(islice(examples, CHUNK)):
        todo = [example for example in chunk if example.id not in verdicts]
        if on_progress and len(todo) < len(chunk):
            on_progress(len(chunk) - len(todo))
        # Taken before the media are opened, so that a later change is seen.
        rows = map(_row_of, todo) if journal else ()
        fingerprints = {row.id: origin.fingerprint(row) for row in rows}
        answers = _ask(benchmark, judge, todo, options, on_progress) if todo else []
        verdicts |= zip([example.id for example in todo], answers, strict=True)
        items = [
            JudgedItem(example, benchmark.group(example), verdicts[example.id]) for example in chunk
        ]
        if journal:
            new = [item for item in items if item.example.id in fingerprints]
            journal.append(
                _row(item, judge) | {FINGERPRINT: fingerprints[item.example.id]} for item in new
            )
        yield items


def _ask(
    benchmark: Benchmark,
    judge: BaseJudge,
    examples: Sequence[Example],
    options: BenchmarkOptions,
    on_progress: Progress | None,
) -> list[Verdict]:
    """Verdicts on the examples; a comparison asked in swapped order has its verdict mirrored."""
    samples = [example.sample for example in examples]
    swaps = [
        benchmark.swap_half
        and not judge.order_free
        and sample.form == "compare"
        and item_hash(f"exchange {sample.id}", options.seed) % 2 == 0
        for sample in samples
    ]
    questions = [
        sample.swapped() if swap else sample for sample, swap in zip(samples, swaps, strict=True)
    ]
    orders = 2 if options.votes else options.orders
    answers = judge.ask(questions, orders=orders, on_progress=on_progress)
    verdicts = [
        answer.mirrored() if swap and isinstance(answer, Preferred) else answer
        for answer, swap in zip(answers, swaps, strict=True)
    ]
    if not options.votes:
        return verdicts
    return [
        majority_vote(verdict, options.votes, item_hash(sample.id, options.seed))
        for verdict, sample in zip(verdicts, samples, strict=True)
    ]


def majority_vote(verdict: Verdict, votes: int, seed: int) -> Verdict:
    """Majority of votes on a comparison asked in both orders, each vote in a random order.

    A judge answers an order always alike, so votes are sampled from its two answers. Equally many
    votes for two outcomes are a tie. A verdict without orders is returned as it is.

    Args:
        verdict: Verdict on a comparison, with both orders.
        votes: Number of votes, >= 1.
        seed: Random seed.
    """
    if not isinstance(verdict, Preferred) or not verdict.orders:
        return verdict
    sampled = np.random.default_rng(seed).integers(len(verdict.orders), size=votes)
    counts = Counter(verdict.orders[int(i)].winner for i in sampled)
    (winner, most), *others = counts.most_common()
    if any(n == most for _, n in others):
        winner = "tie"
    first, tie, second = (float(winner == name) for name in ("first", "tie", "second"))
    return Preferred(
        first, tie, second, text=verdict.text, orders=verdict.orders, notes=verdict.notes
    )


def _without_pixels(example: Example) -> Example:
    """Copy of an example whose media in memory are empty; paths are kept."""
    candidates = tuple(map(_empty_in_memory, example.candidates))
    context: Any = tuple(map(_empty_in_memory, example.context))
    return replace(example, candidates=candidates, context=context)


def _empty_in_memory(part: Candidate) -> Candidate:
    if isinstance(part, tuple):
        return tuple(_empty_in_memory(inner) for inner in part)  # type: ignore[return-value]
    if isinstance(part, Image | Video) and not isinstance(part.source, str | Path):
        return type(part)(b"")
    return part


def _report(
    benchmark: Benchmark,
    judge: BaseJudge,
    options: BenchmarkOptions,
    judged: Sequence[JudgedItem],
    n_broken: int,
) -> dict[str, Any]:
    metrics, groups = benchmark.compute_metrics(judged)
    verdicts = [item.verdict for item in judged]
    return {
        "name": benchmark.name,
        "judge": judge.name,
        "family": judge.family,
        "orders": options.orders,
        "seed": options.seed,
        "n": len(judged),
        "n_unparsed": sum(isinstance(verdict, Unparsed) for verdict in verdicts),
        "n_failed": sum(isinstance(verdict, Failed) for verdict in verdicts),
        **({"n_broken_rows": n_broken} if n_broken else {}),
        **({"votes": options.votes} if options.votes else {}),
        "metrics": _rows(metrics),
        "groups": {name: _rows(group) for name, group in groups.items()},
    }


def _rows(metrics: Metrics) -> dict[str, Any]:
    return {name: metric.row() for name, metric in metrics.items()}


def _row(item: JudgedItem, judge: BaseJudge) -> dict[str, Any]:
    """Verdict row with the label, group and cluster of the item, and the kind of a tie."""
    row = verdict_row(item.example.id, item.verdict, judge=judge.name, family=judge.family)
    target, verdict = item.target, item.verdict
    return row | {
        "tie_kind": verdict.tie_kind if isinstance(verdict, Preferred) else "",
        "benchmark": {
            "group": item.group,
            "cluster": item.cluster,
            "winner": target.winner,
            "score": target.score,
            "aspects": dict(target.aspects),
        },
    }


def _written_verdict(row: Mapping[str, Any]) -> Verdict:
    """Verdict that `_row` wrote."""
    verdict = read_verdict(row)
    return replace(verdict, tie_kind=row["tie_kind"]) if isinstance(verdict, Preferred) else verdict
