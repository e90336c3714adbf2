"""An HTML page of candidates, or of the pairs made of them, with counts by status and reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example
from unified_reward.core.verdicts import Failed
from unified_reward.data.check import gist, question
from unified_reward.data.stats import visible_parts
from unified_reward.io.rows import CandidateDetails, Row, read_examples
from unified_reward.report.page import EMBEDDED_PIXELS, Card, Page


_PIXELS = EMBEDDED_PIXELS // 4
"""Pixels of an image or frame: a row may have ten candidates, and a page stays some megabytes."""
_MARKS = ("context", "chosen", "rejected", "")
_NO_STATUS = "without a status"
"""Status counted for samples and records, which have none."""


def page(
    path: Path, *, n: int, status: str, advance: Callable[[int], None]
) -> tuple[Page, Counter[str]]:
    """Count the rows of a file of pairs or candidates, and show the first of them.

    Media that cannot be opened are marked as such.

    Args:
        path: JSONL; paths in it start at its folder.
        n: Number of rows on the page, >= 0.
        status: Show rows of this status alone; empty for any.
        advance: Called with the number of rows just added.

    Returns:
        The page, and the number of all rows by status.

    Raises:
        DataError: The file cannot be opened, or has no row of that status.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    rows: list[Row] = []
    n_calls = 0
    for row in read_examples(path):
        row_status = row.status or _NO_STATUS
        counts[row_status] += 1
        reasons[row_status, gist(row.reason)] += 1
        n_calls += row.details.judge_calls
        is_listed = status in ("", row_status) and not isinstance(row.content, Failed)
        if is_listed and len(rows) < n:
            rows.append(row)
    if status and not counts[status]:
        made_rows = any(name in counts for name in ("kept", "dropped", "failed"))
        hint = "" if made_rows else "; rows that `unified-reward pairs` made are kept or dropped"
        found = f"its rows are {', '.join(counts)}" if counts else "it has no rows"
        raise DataError(f"{path} has no row that is {status}; {found}{hint}")
    summary = ", ".join(f"{k:,} {name}" for name, k in counts.most_common())
    made = Page(path.name, lead=summary)
    mean = f"{n_calls / (counts.total() - counts['unusable']):.1f}" if n_calls else ""
    made.section("Rows", mean and f"{mean} judge calls a row.")
    made.table(["status", "reason", "rows"], [[*key, k] for key, k in sorted(reasons.items())])
    for row in rows:
        if isinstance(row.content, Example):
            _add_row(made, row, row.content)
        advance(1)
    return made, counts


def _add_row(made: Page, row: Row, example: Example) -> None:
    heading = (example.id, example.task, row.status, row.reason)
    made.section(question(example), " · ".join(filter(None, heading)))
    cards = [_card(part, CandidateDetails(), "context") for part in example.context]
    details = row.details.candidates or [CandidateDetails()] * len(example.candidates)
    for i, (candidate, about) in enumerate(zip(example.candidates, details, strict=True)):
        cards.append(_card(candidate, about, _mark(example, i)))
    made.gallery(sorted(cards, key=lambda card: _MARKS.index(card.mark)))


def _mark(example: Example, index: int) -> str:
    """Side of a candidate if the pair is made of it; empty for the others."""
    if example.pair is None:
        return ""
    return {example.pair.chosen: "chosen", example.pair.rejected: "rejected"}.get(index, "")


def _card(candidate: Candidate, details: CandidateDetails, mark: str) -> Card:
    parts = candidate if isinstance(candidate, tuple) else (candidate,)
    opened, lines = visible_parts(parts, _PIXELS)
    lines += [f"score {details.score:.4g}"] if details.score is not None else []
    lines += [details.reason] if details.reason else []
    return Card(opened, "", lines, mark=mark)
