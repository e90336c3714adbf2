"""A page to look at candidates, or at the pairs made of them: what was taken, what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from unified_reward import media
from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.verdicts import Failed
from unified_reward.data.check import gist
from unified_reward.data.stats import visible
from unified_reward.pairs.preferences import CandidateRow, CandidatesRow, read_candidates
from unified_reward.report.page import EMBEDDED_PIXELS, Animation, Card, Page


_PIXELS = EMBEDDED_PIXELS // 4
"""Of pictures and frames: a row may have ten candidates, and a page stays some megabytes."""
_PART = ("image", "video", "text", "parts")
_MARKS = ("context", "chosen", "rejected", "")


def page(path: Path, *, n: int, status: str, advance: Callable[[int], None]) -> Page:
    """Count the rows of a file of pairs or candidates, and show the first of them.

    Media that cannot be opened are said to be so.

    Args:
        path: JSONL; paths in it start at its folder.
        n: Rows shown, >= 0.
        status: Show rows of this status alone; empty for any.
        advance: Called with the number of rows just drawn.

    Raises:
        DataError: The file cannot be opened, or has no row of that status.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    shown: list[CandidatesRow] = []
    n_calls = 0
    for _, row in read_candidates(path):
        name, why = ("unusable", row.error) if isinstance(row, Failed) else (row.status, row.reason)
        counts[name] += 1
        reasons[name, gist(why or "")] += 1
        if isinstance(row, CandidatesRow):
            n_calls += row.judge_calls
            if len(shown) < n and status in ("", row.status):
                shown.append(row)
    if status and not counts[status]:
        raise DataError(f"{path} has no row that is {status}; its rows are {', '.join(counts)}")
    made = Page(path.name, lead=", ".join(f"{k:,} {name}" for name, k in counts.most_common()))
    mean = f"{n_calls / (counts.total() - counts['unusable']):.1f}" if n_calls else ""
    made.section("Rows", mean and f"{mean} judge calls a row.")
    made.table(["status", "reason", "rows"], [[*one, k] for one, k in sorted(reasons.items())])
    for row in shown:
        told = (row.id, row.task, row.status, row.reason)
        made.section(row.prompt or "", " · ".join(filter(None, told)))
        cards = [_card(one, path.parent, "context") for one in row.context or []]
        cards += [_card(one, path.parent, _mark(one, row)) for one in row.candidates]
        made.gallery(sorted(cards, key=lambda one: _MARKS.index(one.mark)))
        advance(1)
    return made


def _mark(one: CandidateRow, row: CandidatesRow) -> str:
    """Its side if the pair is made of it; several candidates may have been on a side."""
    taken = {"chosen": row.chosen, "rejected": row.rejected}.get(one.side or "")
    is_same = taken and all(getattr(one, key) == getattr(taken, key) for key in _PART)
    return one.side if is_same and one.side else ""


def _card(row: CandidateRow, folder: Path, mark: str) -> Card:
    shown: list[media.PILImage | Animation] = []
    lines: list[str] = []
    try:
        one = row.candidate(folder)
        for part in one if isinstance(one, tuple) else (one,):
            if isinstance(part, str):
                lines.append(part)
            else:
                shown.append(visible(part, _PIXELS))
    except (DataError, MediaError) as error:
        lines.append(f"cannot be shown: {error}")
    lines += [f"score {row.score:.4g}"] if row.score is not None else []
    lines += [row.reason] if row.reason else []
    return Card(shown, "", lines, mark=mark)
