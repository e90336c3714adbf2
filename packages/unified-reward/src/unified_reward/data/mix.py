"""Many sources as one training file and one test file, by a recipe.

Two passes over the sources: the first keeps a few hashes a row, the second writes. The output
depends on the rows and the seed, not on the order of rows, files or sources.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.samples import Example, Task
from unified_reward.core.verdicts import Failed
from unified_reward.data.check import cell, digest, files, question, tally
from unified_reward.data.example_file import mirrored, missing_label
from unified_reward.data.pack import RECORDS, record_line, rows_of
from unified_reward.io.atomic import keep_inputs, replacing
from unified_reward.io.rows import Row
from unified_reward.io.text import read_text


_CELLS = [f"{task.value}.{form}" for task in Task for form in ("score", "compare")]
_ANY = -1
_TWIN = ":twin"
_STATES = ("bad", "leaked", "duplicate", "subsampled", "written")
_BAD, _LEAKED, _DUPLICATE, _SUBSAMPLED, _WRITTEN = range(5)
_SKIPPED = ("dropped", "failed")
_COUNTS = ("read", *_STATES, "twins")
_COLUMNS = np.dtype("i2, i1, u8, u8, u8, i1")
_COLUMNS.names = ("source", "cell", "content", "rank", "name", "state")


@dataclass(frozen=True)
class MixSource:
    """One file of a mix. Without weight, count and cells all its rows are taken."""

    path: Path
    source: str = RECORDS
    """``records`` for our own files, else a name of ``data.sources.SOURCES``."""
    media: Path | None = None
    """Folder where relative media paths of a published source start; default that of the file."""
    weight: float | None = None
    """Share of the recipe's ``n``, > 0, relative to the other weights."""
    count: int | None = None
    """Rows taken at most, >= 1."""
    cells: Mapping[str, float] = field(default_factory=dict[str, float])
    """By ``task.form``: shares of the weight or count, or without these numbers of rows. Cells not
    named are left out."""

    def __post_init__(self) -> None:
        unknown = set(self.cells) - set(_CELLS)
        if unknown:
            raise ConfigError(
                f"{self.path}: no cell {', '.join(sorted(unknown))}; a cell is task.form, such as "
                "image_generation.compare"
            )
        if self.weight is not None and self.count is not None:
            raise ConfigError(f"{self.path}: give a weight or a count, not both")
        numbers = [self.weight, self.count, *self.cells.values()]
        if not all(number is None or number > 0 for number in numbers):
            raise ConfigError(f"{self.path}: weights, counts and cells are above 0")


@dataclass(frozen=True)
class Mix:
    """A recipe for training and test files."""

    sources: tuple[MixSource, ...]
    seed: int = 0
    """Decides which rows are taken and which prompts are tested on."""
    n: int | None = None
    """Rows shared by the sources with a weight, each to the nearest row, twins not counted."""
    twins: bool = False
    """Write every comparison in both orders. A twin keeps neither the published words nor the
    rationale, which speak of a first and a second; a conversation has no twin."""
    dedup: bool = True
    """Keep one of several rows with equal media (byte by byte), prompt, criteria and answers. The
    order of the candidates of a comparison makes no difference, that of a conversation's media
    does."""
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.95, "test": 0.05})
    """Files and their shares of the prompts, which sum to 1. All rows of a prompt fall together;
    a conversation's prompt is its question."""
    exclude: tuple[Path, ...] = ()
    """Benchmarks: files of records, or ``.txt`` with an id a line. Rows with the prompt, a medium
    or the id of one of theirs are left out."""

    def __post_init__(self) -> None:
        weighted = any(one.weight is not None for one in self.sources)
        if not self.sources:
            raise ConfigError("a mix has at least one of sources")
        if self.n is not None and self.n < 1:
            raise ConfigError(f"n is at least 1, not {self.n}")
        if weighted != (self.n is not None):
            raise ConfigError("n is the number of rows that sources share by weight: both or none")
        if not all(re.fullmatch(r"\w[\w-]*", name) for name in self.splits):
            raise ConfigError(f"splits are file names without suffix, not {list(self.splits)}")
        if min(self.splits.values(), default=0) < 0 or abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ConfigError(f"shares of splits sum to 1, not {sum(self.splits.values()):g}")


class _Key(NamedTuple):
    """Hashes of eight bytes that the first pass keeps of a row, and the fate of the row."""

    source: int
    cell: int = _ANY
    content: int = 0
    rank: int = 0
    name: int = 0
    state: int = _BAD


class _Banned(NamedTuple):
    prompts: set[str]
    media: set[str]
    ids: set[str]


def mix(recipe: Mix, out: Path, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Write ``OUT/<split>.jsonl`` and ``OUT/report.json``; media files stay where they are.

    Media in memory, as in Parquet, are written to ``OUT/media``. An id that several rows have is
    made longer. Files are replaced when all is written.

    Args:
        recipe: What to mix.
        out: The folder.
        progress: Called with the number of rows just handled; every row comes twice.

    Returns:
        The report: what became of every row, by source and cell, and the rows of each split.

    Raises:
        DataError: A source without one usable row, a benchmark row that cannot be read, a file
            that changed in between, or a full disk.
        ConfigError: No such source, or a file that is written is one that is read.
    """
    inputs = [*(source.path for source in recipe.sources), *recipe.exclude]
    for name in (*(f"{split}.jsonl" for split in recipe.splits), "report.json"):
        keep_inputs(out / name, *inputs)
    banned, excluded = _banned(recipe.exclude)
    bad = [Counter[str]() for _ in recipe.sources]
    skipped = [Counter[str](dict.fromkeys(_SKIPPED, 0)) for _ in recipe.sources]
    rows = np.fromiter(_keys(recipe, banned, bad, skipped, progress), _COLUMNS)
    for i, source in enumerate(recipe.sources):
        if (rows["state"][rows["source"] == i] == _BAD).all():
            counts = [*bad[i].most_common(3), *(+skipped[i]).items()]
            reasons = ", ".join(f"{reason} ({n})" for reason, n in counts)
            raise DataError(
                f"{source.path} as {source.source} has no usable row: {reasons or 'none'}"
            )
    _choose(recipe, rows)
    report = {"seed": recipe.seed, "n": recipe.n, "tokens": None, "exclude": excluded}
    with replacing(out / "report.json") as report_file, ExitStack() as stack:
        splits = {
            name: stack.enter_context(replacing(out / f"{name}.jsonl")) for name in recipe.splits
        }
        writer = _Writer(recipe, out, splits, rows)
        report["sources"] = [
            writer.write(i, bad[i], progress) | skipped[i] for i in range(len(recipe.sources))
        ]
        report["splits"] = writer.lines
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        report_file.write(text.encode(errors="replace"))
    return report


def _rows(source: MixSource, skipped: Counter[str]) -> Iterator[Row]:
    """Rows to learn from: made pairs as comparisons. What was dropped or failed is counted."""
    for row in rows_of(source.path, source.source, source.media):
        if row.status in _SKIPPED:
            skipped[row.status] += 1
            continue
        content = row.content
        if not isinstance(content, Failed):
            row = replace(row, content=content.as_comparison())  # noqa: PLW2901
        yield row


def _keys(
    recipe: Mix,
    banned: _Banned,
    bad: Sequence[Counter[str]],
    skipped: Sequence[Counter[str]],
    progress: Callable[[int], None],
) -> Iterator[_Key]:
    for i, source in enumerate(recipe.sources):
        for row in _rows(source, skipped[i]):
            progress(1)
            try:
                yield _key(row.content, i, recipe.seed, banned)
            except (DataError, MediaError) as error:
                tally(bad[i], str(error))
                yield _Key(i)


def _key(content: Example | Failed, source: int, seed: int, banned: _Banned) -> _Key:
    if isinstance(content, Failed):
        raise DataError(content.reason)
    if lack := missing_label(content):
        raise DataError(lack)
    leaked = (
        content.id.removesuffix(_TWIN) in banned.ids
        or content.id in banned.ids
        or not banned.prompts.isdisjoint(_prompts(content))
        or any(digest(one) in banned.media for one in files(content.media))
    )
    # Twins rank last, so that of a comparison and its twin the comparison is kept.
    rank = _hash("rank", str(seed), content.id) >> 1 | content.id.endswith(_TWIN) << 63
    cell, state = _CELLS.index(_cell(content)), _LEAKED if leaked else _WRITTEN
    return _Key(source, cell, _identity(content), rank, _hash(content.id), state)


def _cell(content: Example) -> str:
    return ".".join(cell(content))


def _identity(content: Example) -> int:
    if _is_conversation(content):
        return _hash(content.task, _prompts(content)[0], *map(_fingerprint, content.media))
    texts = (content.task, _normal(content.prompt), content.criteria)
    # The order of candidates makes no difference: twins are made again after duplicates are gone.
    candidates = sorted(map(_fingerprint, content.candidates))
    return _hash(*texts, *map(_fingerprint, content.context), "", *candidates)


def _is_conversation(example: Example) -> bool:
    return bool(example.messages) and not example.candidates


def _fingerprint(part: Any) -> str:
    """Return a text that is equal for equal content of a candidate or medium."""
    if isinstance(part, str):
        return f"text {part}"
    if isinstance(part, tuple):
        return f"({' '.join(map(_fingerprint, part))})"
    return _fingerprint(part.source) if isinstance(part.source, tuple) else digest(part)


def _hash(*parts: str) -> int:
    """Return eight bytes of SHA-256 over texts."""
    text = "\0".join(parts).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _prompts(content: Example) -> list[str]:
    """Return the prompt; for a conversation its question, then parts that may be the prompt."""
    prompt = question(content)
    lines = prompt.split("\n") if _is_conversation(content) else []
    pieces = lines + [line.partition(":")[2] for line in lines]
    return [_normal(prompt), *(_normal(piece.strip(" []\"'")) for piece in pieces)]


def _banned(exclude: Iterable[Path]) -> tuple[_Banned, dict[str, Any]]:
    """Read the contents of benchmarks, and count how much of each could be read."""
    banned = _Banned(set(), set(), set())
    counts: dict[str, Any] = {}
    for path in exclude:
        n_rows = n_missing = 0
        if path.suffix.lower() == ".txt":
            lines = (line.strip().lstrip("\ufeff") for line in read_text(path).split("\n"))
            ids = set(filter(None, lines))
            banned.ids.update(ids)
            counts[str(path)] = {"ids": len(ids)}
            continue
        for row in rows_of(path):
            n_rows += 1
            if isinstance(row.content, Failed):
                raise DataError(f"{path}: {row.content.reason}; it cannot be excluded from the mix")
            banned.ids.add(row.id)
            banned.prompts.add(_prompts(row.content)[0])
            for medium in files(row.content.media):
                try:
                    banned.media.add(digest(medium))
                except MediaError:
                    n_missing += 1
        counts[str(path)] = {"rows": n_rows, "missing_media": n_missing}
    banned.prompts.discard("")
    return banned, counts


def _choose(recipe: Mix, rows: NDArray[Any]) -> None:
    """Mark duplicates, and what is above a limit."""
    identity = rows["content"] if recipe.dedup else rows["content"] ^ rows["name"]
    alive = np.flatnonzero(rows["state"] == _WRITTEN)
    order = alive[np.lexsort((rows["rank"][alive], identity[alive]))]
    again = np.flatnonzero(identity[order[1:]] == identity[order[:-1]]) + 1
    rows["state"][order[again]] = _DUPLICATE
    for i, source in enumerate(recipe.sources):
        mine = (rows["source"] == i) & (rows["state"] == _WRITTEN)
        for place, limit in _limits(recipe, source).items():
            chosen = np.flatnonzero(mine & ((rows["cell"] == place) | (place == _ANY)))
            late = np.argsort(rows["rank"][chosen], kind="stable")[limit:]
            rows["state"][chosen[late]] = _SUBSAMPLED


def _limits(recipe: Mix, source: MixSource) -> dict[int, int]:
    """Rows taken at most, by place of the cell, or of all cells together."""
    quota = source.count
    if source.weight is not None:
        weights = sum(one.weight or 0 for one in recipe.sources)
        quota = round((recipe.n or 0) * source.weight / weights)
    if not source.cells:
        return {} if quota is None else {_ANY: quota}
    unit = 1 if quota is None else quota / sum(source.cells.values())
    return {i: round(unit * source.cells.get(cell, 0)) for i, cell in enumerate(_CELLS)}


class _Writer:
    """The second pass: writes what was chosen and counts what becomes of every row."""

    def __init__(
        self, recipe: Mix, out: Path, files: Mapping[str, IO[bytes]], rows: NDArray[Any]
    ) -> None:
        self.lines = dict.fromkeys(recipe.splits, 0)
        self._recipe, self._out, self._files, self._rows = recipe, out, files, rows
        names = rows["name"][rows["state"] == _WRITTEN]
        self._names, n_each = np.unique(names, return_counts=True)
        self._repeated = {int(name) for name in self._names[n_each > 1]}

    def write(self, i: int, bad: Counter[str], progress: Callable[[int], None]) -> dict[str, Any]:
        """Write the rows of source ``i`` and report on them; sources come in order."""
        source = self._recipe.sources[i]
        cells: dict[str, Counter[str]] = {}
        known = self._rows[self._rows["source"] == i]
        for key, row in zip_longest(known, _rows(source, Counter())):
            if key is None or row is None or not _is_of(key, row):
                raise DataError(f"{source.path} changed while it was read")
            progress(1)
            if key["state"] == _BAD or isinstance(row.content, Failed):
                continue
            counts = cells.setdefault(_cell(row.content), Counter(dict.fromkeys(_COUNTS, 0)))
            counts["read"] += 1
            if key["state"] == _WRITTEN:
                self._put(row.content, key, counts, bad)
            else:
                counts[_STATES[key["state"]]] += 1
        limits = _limits(self._recipe, source)
        return {
            "path": str(source.path),
            "source": source.source,
            "limits": {_CELLS[one] if one >= 0 else "all": n for one, n in limits.items()},
            "read": len(known),
            "bad": dict(bad),
            "cells": {name: dict(counts) for name, counts in sorted(cells.items())},
        }

    def _put(self, content: Example, key: Any, counts: Counter[str], bad: Counter[str]) -> None:
        """Write a row and its twin."""
        if int(key["name"]) in self._repeated:
            content = replace(content, id=f"{content.id}:{key['content']:016x}")
        try:
            lines = [record_line(content, self._out)]
            if self._has_twin(content):
                lines.append(record_line(_twin(content), self._out))
        except (DataError, MediaError) as error:
            tally(bad, str(error))
            counts["bad"] += 1
            return
        split = self._split(content)
        self._files[split].writelines(lines)
        self.lines[split] += len(lines)
        counts["written"] += 1
        counts["twins"] += len(lines) - 1

    def _has_twin(self, content: Example) -> bool:
        if not self._recipe.twins or len(content.candidates) != 2 or content.id.endswith(_TWIN):
            return False
        name = _hash(content.id + _TWIN)
        place = np.searchsorted(self._names, np.uint64(name))
        return place == len(self._names) or self._names[place] != name

    def _split(self, content: Example) -> str:
        share = _hash("split", str(self._recipe.seed), _prompts(content)[0]) / 2**64
        ends = list(accumulate(self._recipe.splits.values()))
        place = next((i for i, end in enumerate(ends) if share < end), len(ends) - 1)
        return list(self._recipe.splits)[place]


def _is_of(key: Any, row: Row) -> bool:
    if isinstance(row.content, Failed):
        return key["state"] == _BAD
    return key["state"] == _BAD or key["name"] == _hash(row.id)


def _twin(record: Example) -> Example:
    turned = mirrored(replace(record, messages=()))
    turned = replace(turned, target=replace(turned.target, rationale=""))
    return replace(turned, id=record.id + _TWIN)
