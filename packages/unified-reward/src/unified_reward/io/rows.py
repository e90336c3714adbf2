"""Rows of JSON, read as examples and written from them.

One reader for every kind of row: samples, records, prompts, candidates and pairs. pydantic checks
what comes in. Knows neither prompts nor judges, and opens no media.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Pair, Target, Task, Video
from unified_reward.core.verdicts import Failed, Scale, Winner
from unified_reward.io.id_table import IdTable
from unified_reward.io.text import LinePlace, parse_json, read_lines, to_float
from unified_reward.io.validation import describe_errors
from unified_reward.io.verdict_rows import check_winner


SCHEMA = 1
Side = Literal["chosen", "rejected"]


def id_text(given: Any) -> Any:
    """Return an id as text: a whole number by its digits; anything else as it is.

    >>> id_text(7), id_text("7"), id_text(True)
    ('7', '7', True)
    """
    is_whole = isinstance(given, int) and not isinstance(given, bool)
    return str(given) if is_whole else given


def _tag_text(given: Any) -> Any:
    return repr(given) if isinstance(given, float) else id_text(given)


def _plain(given: Any) -> Any:
    return to_float(given) if isinstance(given, bool | str) else given


_Id = Annotated[str, BeforeValidator(id_text)]
_Tag = Annotated[str, BeforeValidator(_tag_text)]
_Number = Annotated[float, BeforeValidator(_plain)]


class _Row(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _PartRow(_Row):
    """One medium or text: exactly one of the three keys."""

    image: str | None = None
    video: str | list[str] | None = None
    text: str | None = None

    def value(self, folder: Path) -> Image | Video | str:
        """Return the part; relative paths start at ``folder``."""
        given = [key for key in ("image", "video", "text") if getattr(self, key) is not None]
        if len(given) != 1:
            raise DataError(
                'a part has one of the keys "image", "video", "text", not '
                f"{' and '.join(given) or 'none'}"
            )
        frames = self.video if isinstance(self.video, list) else ()
        if self.video == []:
            raise DataError("a video has frames; its list is empty")
        if "" in (self.image, self.video, *frames):
            raise DataError('a medium is the path of a file, not ""')
        if self.image is not None:
            return Image(_place(self.image, folder))
        if isinstance(self.video, str):
            return Video(_place(self.video, folder))
        if self.video is not None:
            return Video(tuple(Image(_place(frame, folder)) for frame in self.video))
        return cast("str", self.text)


class _CandidateRow(_PartRow):
    """A candidate, and in pairs rows its side; ``parts`` of an interleaved one."""

    parts: list[_PartRow] | None = None
    score: _Number | None = None
    side: Side | None = None
    reason: str | None = None

    def candidate(self, folder: Path) -> Candidate:
        if self.parts is None:
            return self.value(folder)
        return tuple(part.value(folder) for part in self.parts)


class _TargetRow(_Row):
    score: _Number | None = None
    scale: tuple[_Number | None, _Number | None] | None = None
    aspects: dict[str, _Number] = Field(default_factory=dict[str, float])
    winner: Winner | None = None
    rationale: str = ""

    def value(self) -> Target:
        scale = Scale(*self.scale) if self.scale else None
        return Target(self.score, scale, self.aspects, self.winner, self.rationale)


class _ComparisonRow(_Row):
    """A comparison by which a pair was made."""

    a: int
    b: int
    winner: Winner | None = None
    probability: _Number | None = None
    orders: list[dict[str, Any]] | None = None
    reason: str | None = None

    def model_post_init(self, _: Any) -> None:
        if self.winner is not None and self.probability is not None:
            check_winner(self.winner, self.probability)


def _as_parts(given: Any) -> Any:
    return {"parts": cast("list[Any]", given)} if isinstance(given, list) else given


_AnyCandidate = Annotated[_CandidateRow, BeforeValidator(_as_parts)]


class _ExampleRow(_Row):
    """Every key of every kind of row."""

    id: _Id | None = None
    task: Task | None = None
    prompt: str | None = None
    candidates: list[_AnyCandidate] | None = None
    context: list[_PartRow] | None = None
    criteria: str | None = None
    target: _TargetRow | None = None
    raters: Any = None
    source: _Id | None = None
    tags: dict[str, _Tag] | None = None
    schema_: int = Field(default=SCHEMA, alias="schema")
    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    status: Literal["generated", "kept", "dropped", "failed"] | None = None
    reason: str | None = None
    chosen: _AnyCandidate | None = None
    rejected: _AnyCandidate | None = None
    chosen_score: _Number | None = None
    rejected_score: _Number | None = None
    comparisons: list[_ComparisonRow] = Field(default_factory=list[_ComparisonRow])
    judge_calls: int = 0
    judge: str = ""
    family: str = ""
    strategy: str = ""
    policy: str = ""
    seed: int | None = None
    duplicates: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class CandidateDetails:
    """Facts that a pairs row holds about one candidate."""

    score: float | None = None
    side: Side | None = None
    """Side of its comparison; several candidates may have the same one."""
    reason: str | None = None
    """Reason why it could not be judged."""


@dataclass(frozen=True)
class RowDetails:
    """Origin of a row of candidates or pairs; empty for other rows."""

    candidates: tuple[CandidateDetails, ...] = ()
    """In the order of the example's candidates."""
    judge_calls: int = 0
    judge: str = ""
    family: str = ""
    strategy: str = ""
    policy: str = ""
    seed: int | None = None
    duplicates: int = 0
    comparisons: tuple[Mapping[str, Any], ...] = ()
    """Comparisons by which a pair was made, as the row has them."""


@dataclass(frozen=True)
class Row:
    """One line of a file: an example, or why there is none."""

    line: int
    """Counted from 1."""
    id: str
    content: Example | Failed
    start: int = 0
    """Byte at which the line begins; 0 where rows are not lines."""
    status: str = ""
    """Status in the row, ``generated``, ``kept``, ``dropped`` or ``failed``; ``unusable`` where the
    line itself is wrong; empty for a sample or record."""
    reason: str = ""
    """Reason of that status."""
    details: RowDetails = RowDetails()
    prompt: Example | None = None
    """Prompt, without candidates, of a row that failed when it was made; None for other rows."""


def read_examples(
    path: Path,
    *,
    strict: bool = True,
    task: Task | None = None,
    place: LinePlace | None = None,
    earlier: Container[str] = (),
) -> Iterator[Row]:
    """Read a JSONL file of samples, records, prompts, candidates or pairs, in constant memory.

    A row that cannot be used (no JSON, a missing key, a repeated id, a candidate that does not fit
    its task, candidates that could not be made) comes as ``Failed`` and the others go on. A row
    without an id gets one from its content.

    Args:
        path: The file; relative media paths start at its folder.
        strict: Refuse unknown keys, which may be misspelt; False ignores them.
        task: Of rows that name none.
        place: Place in the file to begin at; it moves behind each row that is yielded.
        earlier: Ids of the rows before that place, and no others.

    Raises:
        DataError: The file cannot be opened, or is a Parquet file.
    """
    ids = Ids("line", lambda: not any(b'"line ' in raw for *_, raw in read_lines(path)))
    n_earlier = place.n_lines if place else 0
    for line, start, raw in read_lines(path, place):
        row = read_row(raw, path.parent, strict=strict, task=task)
        if n_earlier and (not row.id or row.id in earlier):
            # The names of both depend on the ids of all rows before.
            for number, _, before in read_lines(path):
                if number > n_earlier:
                    break
                ids.checked(read_row(before, path.parent, strict=strict, task=task), number)
            n_earlier = 0
        row = ids.checked(row, line, start)
        if isinstance(row.content, Failed):
            row = replace(row, content=_failed(f"line {line}: {row.content.reason}"))
        yield row


class Ids:
    """Ids of the rows of a file: each stands once, and a row that has none gets a stand-in.

    A stand-in is the place, such as ``line 7``, and where rows may have such ids of their own,
    before or behind it, ``line 7 (3fa94c12)`` with a hash of what is wrong.
    """

    def __init__(self, place: str, is_free: Callable[[], bool] = lambda: False) -> None:
        """Begin with no ids.

        Args:
            place: Name of a place in the file.
            is_free: Looks whether no row has an id of its own like a place; called once at most.
        """
        self._place = place
        self._is_free = cache(is_free)
        self._numbers = IdTable()

    def checked(self, row: Row, number: int, start: int = 0) -> Row:
        """Return a row with number, id and first byte; unusable where an earlier one has its id."""
        if row.id and (first := self._numbers.get(row.id)):
            row = unusable(f"duplicate id {row.id!r} (first on {self._place} {first})")
        name = row.id
        if not name:
            digest = hashlib.sha256(row.reason.encode(errors="surrogatepass")).hexdigest()
            plain = f"{self._place} {number}"
            names = (f"{plain} ({digest[:n]})" for n in range(8, 64))
            free = (name for name in names if name not in self._numbers)
            name = plain if self._is_free() else next(free)
        self._numbers.add([(name, str(number))])
        return replace(row, line=number, id=name, start=start)


def unusable(reason: str) -> Row:
    """Return a row of line 0, without an id, that cannot be used."""
    return Row(0, "", _failed(reason), status="unusable", reason=reason)


def parse_row(raw: bytes, folder: Path) -> Example | Failed:
    """Parse one line as an example; relative paths start at ``folder``."""
    return read_row(raw, folder).content


def read_row(raw: bytes, folder: Path, *, strict: bool = True, task: Task | None = None) -> Row:
    """Parse one line as a row of line 0; an unusable one has no id, a failed one its own."""
    try:
        read = parse_json(raw)
    except ValueError as error:
        return unusable(f"row: {error}")
    if not isinstance(read, dict):
        return unusable(f"row: Input should be an object, not a {type(read).__name__}")
    given = cast("dict[str, Any]", read)
    if strict and "file_name" in given and "candidates" not in given:
        return unusable(
            "row: this is metadata of a folder (file_name); give the folder itself to score or "
            'evaluate, or write rows {"task": …, "prompt": …, "candidates": [{"image": …}]}'
        )
    if task and given.get("status") != "failed":
        given = {"task": task.value, **given}
    try:
        row = _ExampleRow.model_validate(given, extra="forbid" if strict else "ignore")
        name = row.id or hashlib.sha256(raw.strip()).hexdigest()[:16]
        content = _example(row, name, folder)
        prompt = _failed_prompt(row, name, folder) if isinstance(content, Failed) else None
    except ValidationError as error:
        return unusable(describe_errors(error, "row", 3))
    except (DataError, ValueError) as error:
        return unusable(str(error))
    return Row(
        0,
        name,
        content,
        0,
        row.status or "",
        row.reason or "",
        _details(row, content),
        prompt,
    )


def _failed(message: str) -> Failed:
    return Failed(message, DataError(message))


def _example(row: _ExampleRow, name: str, folder: Path) -> Example | Failed:
    if row.status == "failed" and not (row.candidates and row.task and row.prompt is not None):
        return _failed(row.reason or "the row failed when it was made, without a reason")
    if row.task is None or row.prompt is None:
        missing = "task" if row.task is None else "prompt"
        raise DataError(f"{missing}: Field required, unless the status is failed")
    context = _context(row, folder)
    candidates = [candidate.candidate(folder) for candidate in row.candidates or ()]
    pair = _pair(row, candidates, folder)
    target = row.target.value() if row.target else Target()
    if candidates:
        check_target(target, candidates)
    return Example(
        row.task,
        row.prompt,
        tuple(candidates),
        context,
        row.criteria or "",
        name,
        target,
        row.raters,
        row.source or "",
        row.tags or {},
        tuple(row.messages),
        pair,
    )


def check_target(target: Target, candidates: Sequence[Candidate]) -> None:
    """Refuse a target that contradicts the number of candidates, or their being the same.

    Raises:
        DataError: It does.
    """
    n = len(candidates)
    if target.winner and n != 2:
        raise DataError(f"the target has the winner {target.winner!r} of two, and the row {n}")
    if target.score is not None and n != 1:
        raise DataError(
            f"the target has the score {target.score:g} of one candidate, and the row has {n}"
        )
    if target.winner in ("first", "second") and candidates[0] == candidates[1]:
        raise DataError(f"the target has the winner {target.winner!r}, and both are the same")


def _context(row: _ExampleRow, folder: Path) -> tuple[Image | Video, ...]:
    context = tuple(part.value(folder) for part in row.context or ())
    if any(isinstance(part, str) for part in context):
        raise DataError("context holds images and videos, not text")
    return cast("tuple[Image | Video, ...]", context)


def _failed_prompt(row: _ExampleRow, name: str, folder: Path) -> Example | None:
    """Return the prompt of a row that failed when it was made, as far as the row names it."""
    if row.task is None or row.prompt is None:
        return None
    context, tags = _context(row, folder), row.tags or {}
    return Example(row.task, row.prompt, (), context, row.criteria or "", name, tags=tags)


def _pair(row: _ExampleRow, candidates: list[Candidate], folder: Path) -> Pair | None:
    """Find chosen and rejected among the candidates; those not listed are added to them."""
    if row.status in ("dropped", "failed", "generated"):
        return None
    if row.chosen is None or row.rejected is None:
        if row.status == "kept" or row.chosen or row.rejected:
            raise DataError("a row that is kept has a chosen and a rejected candidate")
        return None
    places: list[int] = []
    for side in (row.chosen, row.rejected):
        candidate = side.candidate(folder)
        if candidate not in candidates:
            candidates.append(candidate)
        places.append(candidates.index(candidate))
    chosen, rejected = places
    if chosen == rejected:
        raise DataError("chosen and rejected are the same candidate")
    pair = Pair(chosen, rejected, row.chosen_score, row.rejected_score)
    _check_pair(pair, row)
    return pair


def _check_pair(pair: Pair, row: _ExampleRow) -> None:
    """Refuse a pair that contradicts its scores, or what the row says of its candidates."""
    best, worst = pair.chosen_score, pair.rejected_score
    if best is not None and worst is not None and best < worst:
        raise DataError(f"chosen_score {best:g} is below rejected_score {worst:g}")
    winner = row.target.winner if row.target else None
    if winner and winner != ("first" if pair.chosen < pair.rejected else "second"):
        raise DataError(f"the target has the winner {winner!r}, and chosen is {pair.chosen}")
    sides = {pair.chosen: ("chosen", best), pair.rejected: ("rejected", worst)}
    for i, about in enumerate(row.candidates or ()):
        side, score = sides.get(i, (about.side, None))
        if about.side not in (None, side):
            raise DataError(f"candidate {i} is {side}, and its side is {about.side!r}")
        known = about.score
        if not (score is None or known is None or math.isclose(score, known, rel_tol=1e-6)):
            raise DataError(f"{side}_score is {score:g}, and that candidate's {known:g}")


def _details(row: _ExampleRow, content: Example | Failed) -> RowDetails:
    if isinstance(content, Failed) or row.status is None:
        candidates: list[CandidateDetails] = []
    else:
        candidates = [
            CandidateDetails(one.score, one.side, one.reason) for one in row.candidates or ()
        ]
        unlisted = len(content.candidates) - len(candidates)
        candidates += [CandidateDetails()] * unlisted
    return RowDetails(
        tuple(candidates),
        row.judge_calls,
        row.judge,
        row.family,
        row.strategy,
        row.policy,
        row.seed,
        row.duplicates,
        tuple(one.model_dump() for one in row.comparisons),
    )


def example_row(example: Example, folder: Path) -> dict[str, Any]:
    """Write an example as a row of a file in ``folder``; its media must be files.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    target = example.target
    row: dict[str, Any] = {
        "id": example.id,
        "task": example.task.value,
        "prompt": example.prompt,
        "candidates": parts_rows(example.candidates, folder),
        "context": parts_rows(example.context, folder),
        "criteria": example.criteria,
        "target": {
            "score": target.score,
            "scale": [target.scale.low, target.scale.high] if target.scale else None,
            "aspects": dict(target.aspects),
            "winner": target.winner,
            "rationale": target.rationale,
        },
        "raters": example.raters,
        "source": example.source,
        "tags": dict(example.tags),
        "schema": SCHEMA,
    }
    if example.messages:
        row["messages"] = [dict(message) for message in example.messages]
    if example.pair:
        row |= {"status": "kept", **pair_keys(example, folder)}
    return row


def written_row(row: Row, folder: Path) -> dict[str, Any]:
    """Write a row as a row of a file in ``folder``, with its status and details.

    Raises:
        DataError: It holds no example, or a medium is in memory, not in a file.
    """
    if isinstance(row.content, Failed):
        raise DataError(row.content.reason)
    written = example_row(row.content, folder)
    if not row.status:
        return written
    details = vars(row.details)
    candidates = zip(row.content.candidates, row.details.candidates, strict=True)
    return written | {
        **{key: details[key] for key in details if details[key] not in (0, None, "", ())},
        "status": row.status,
        "reason": row.reason or None,
        "candidates": [
            part_row(part, folder)
            if about == CandidateDetails()
            else candidate_row(part, folder, about)
            for part, about in candidates
        ],
    }


def candidate_row(candidate: Candidate, folder: Path, about: CandidateDetails) -> dict[str, Any]:
    """Write a candidate with what is known about it; see `part_row`."""
    part = part_row(candidate, folder)
    row: dict[str, Any] = {"parts": part} if isinstance(candidate, tuple) else part
    return row | vars(about)


def pair_keys(example: Example, folder: Path) -> dict[str, Any]:
    """Write the chosen and the rejected candidate as keys of a pairs row.

    All keys are null without a pair.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    pair = example.pair
    if pair is None:
        return dict.fromkeys(("chosen", "rejected", "chosen_score", "rejected_score"))
    return {
        "chosen": part_row(example.candidates[pair.chosen], folder),
        "rejected": part_row(example.candidates[pair.rejected], folder),
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
    }


def parts_rows(parts: Sequence[Candidate], folder: Path) -> list[Any]:
    """Write several candidates or media; see `part_row`."""
    return [part_row(part, folder) for part in parts]


def part_row(part: Candidate, folder: Path) -> Any:
    """Write a candidate or medium as a part of a row of a file in ``folder``.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    if isinstance(part, str):
        return {"text": part}
    if isinstance(part, Image | Video):
        return {"image" if isinstance(part, Image) else "video": _relative(part.source, folder)}
    return parts_rows(part, folder)


def _relative(source: Any, folder: Path) -> str | list[str]:
    if isinstance(source, tuple):
        frames = cast("tuple[Image, ...]", source)
        return [cast("str", _relative(frame.source, folder)) for frame in frames]
    if not isinstance(source, str | Path):
        raise DataError("a row can name a medium only by its file; write it to a file first")
    return str(source) if _is_url(source) else os.path.relpath(source, folder)


def _place(path: str, folder: Path) -> str | Path:
    """Path of a medium of a row; a URL stays as it is, though it is not read."""
    return path if _is_url(path) else folder / path


def _is_url(path: str | Path) -> bool:
    return isinstance(path, str) and ("://" in path or path.startswith("data:"))
