"""Preference pairs: the rows of a pairs file, and what they stand for.

Knows neither who judged nor who trains on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import PartRow, record_lines


class CandidateRow(PartRow):
    """A candidate and what became of it; the parts of an interleaved one stand in ``parts``."""

    parts: list[PartRow] | None = None
    score: float | None = None
    side: Literal["chosen", "rejected"] | None = None
    reason: str | None = None

    def candidate(self, folder: Path) -> Candidate:
        """What the row stands for; relative paths start at ``folder``.

        Raises:
            DataError: A part is not exactly one picture, clip or text.
        """
        if self.parts is None:
            return self.value(folder)
        return tuple(one.value(folder) for one in self.parts)


def _listed(given: Any) -> Any:
    return {"parts": given} if isinstance(given, list) else given


_OneRow = Annotated[CandidateRow, BeforeValidator(_listed)]


class CandidatesRow(BaseModel):
    """A row of a pairs file, or of a file of candidates, which lacks what a judge adds.

    Task, prompt and context are null where the candidates could not be read.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    id: str = Field(min_length=1)
    status: str = "generated"
    reason: str | None = None
    task: Task | None = None
    prompt: str | None = None
    context: list[CandidateRow] | None = None
    chosen: _OneRow | None = None
    rejected: _OneRow | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    candidates: list[_OneRow] = Field(default_factory=list[CandidateRow])
    judge_calls: int = 0
    judge: str = ""
    family: str = ""
    strategy: str = ""


@dataclass(frozen=True)
class PreferencePair:
    """Two candidates of one prompt, of which one is preferred."""

    id: str
    task: Task
    prompt: str
    context: tuple[Image | Video, ...]
    """What the prompt asks about; empty for generation."""
    chosen: Candidate
    rejected: Candidate
    chosen_score: float | None
    """On the judge's own scale; None where only comparisons were asked."""
    rejected_score: float | None


@dataclass(frozen=True)
class PairRow:
    """One line of a pairs file."""

    line: int
    """Counted from 1."""
    id: str
    status: str
    """``kept``; ``dropped`` on purpose; ``failed`` where something could not be read or asked;
    ``unusable`` where the line itself is wrong."""
    content: PreferencePair | Failed
    """The pair of a kept row, and of any other the reason why there is none."""
    judge: str = ""
    family: str = ""
    strategy: str = ""


def read_pairs(path: Path) -> Iterator[PairRow]:
    """Read a pairs file, one row a line, in the order of the file; only ids are held in memory.

    A line that cannot be used (no JSON, a missing key, a repeated id, a candidate that is none
    for its task) comes as ``unusable`` and the others go on. Media are not opened.

    Raises:
        DataError: The file cannot be opened.
    """
    for line, row in read_candidates(path):
        if isinstance(row, Failed):
            yield PairRow(line, f"line {line}", "unusable", row)
            continue
        status = row.status
        try:
            content = _content(row, path.parent)
        except DataError as error:
            status, content = "unusable", _failed(line, str(error))
        yield PairRow(line, row.id, status, content, row.judge, row.family, row.strategy)


def trainable_pairs(
    path: Path, tasks: Sequence[Task], log: Callable[[str], None]
) -> tuple[list[PreferencePair], Counter[str]]:
    """The kept pairs of a file that a policy for these tasks can learn from.

    Args:
        path: A pairs file.
        tasks: Those of the policy.
        log: Told why, of every row that cannot be used.

    Returns:
        The pairs, and how many rows were ``kept``, ``dropped``, ``failed`` and ``unusable``; pairs
        of another task, and those whose candidates are the same, are unusable.

    Raises:
        ConfigError: All pairs are of other tasks.
        DataError: The file cannot be opened, or holds no pair that can be used.
    """
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter()
    others: set[str] = set()
    for row in read_pairs(path):
        pair, status, why = row.content, row.status, ""
        if isinstance(pair, Failed):
            why = pair.error
        elif pair.task not in tasks:
            others.add(pair.task.value)
            status, why = "unusable", f"line {row.line}: a pair of {pair.task.value}"
        elif pair.chosen == pair.rejected:
            status, why = "unusable", f"line {row.line}: chosen and rejected are the same"
        else:
            pairs.append(pair)
        counts[status] += 1
        if status == "unusable":
            log(why)
    if others and not pairs:
        raise ConfigError(
            f"the policy is for {' and '.join(tasks)}, and the pairs of {path} are of "
            f"{', '.join(sorted(others))}"
        )
    if not pairs:
        told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no rows"
        raise DataError(f"{path} holds no pair to learn from: {told}")
    return pairs, counts


def read_candidates(path: Path) -> Iterator[tuple[int, CandidatesRow | Failed]]:
    """Lines of a file of candidates or pairs with their numbers, as they stand there.

    Raises:
        DataError: The file cannot be opened.
    """
    seen: set[str] = set()
    for line, _, raw in record_lines(path):
        yield line, _row(line, raw, seen)


def _row(line: int, raw: bytes, seen: set[str]) -> CandidatesRow | Failed:
    try:
        row = CandidatesRow.model_validate_json(raw)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in error.errors()]
        return _failed(line, "; ".join(told[:3]))
    if row.id in seen:
        return _failed(line, f"id {row.id!r} stands above already; ids must differ")
    seen.add(row.id)
    return row


def _content(row: CandidatesRow, folder: Path) -> PreferencePair | Failed:
    if row.status in ("dropped", "failed"):
        return Failed(row.reason or "")
    if row.status != "kept" or row.chosen is None or row.rejected is None:
        raise DataError("a row is dropped, failed, or kept with a chosen and a rejected candidate")
    if row.task is None or row.prompt is None:
        raise DataError("a kept row has a task and a prompt")
    context = [one.candidate(folder) for one in row.context or []]
    if not all(isinstance(one, Image | Video) for one in context):
        raise DataError("context holds pictures and clips, not text")
    shown = cast("tuple[Image | Video, ...]", tuple(context))
    two = row.chosen.candidate(folder), row.rejected.candidate(folder)
    # A sample refuses candidates and contexts that are none for its task.
    Sample(row.task, row.prompt, two, shown)
    scores = row.chosen_score, row.rejected_score
    return PreferencePair(row.id, row.task, row.prompt, shown, *two, *scores)


def _failed(line: int, told: str) -> Failed:
    told = f"line {line}: {told}"
    return Failed(told, DataError(told))
