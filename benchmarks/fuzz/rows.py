"""Mutated files of rows, read by every reader of rows and, independently, line by line by json."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import PIL.Image

from benchmarks.fuzz.clips import encode
from benchmarks.fuzz.images import picture
from benchmarks.fuzz.kind import RowsLostError, WrongReadError
from benchmarks.fuzz.mutate import (
    json_text,
    mutate_bytes,
    mutate_text,
    mutate_value,
    with_a_key_twice,
)
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.samples import Example, Image, Video
from unified_reward.core.verdicts import Failed
from unified_reward.data import check, mix, pack, stats
from unified_reward.data.example_file import ExampleFile
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.rows import Row, example_row, read_examples
from unified_reward.io.verdict_rows import read_verdict, read_verdict_rows
from unified_reward.judges import bulk
from unified_reward.judges.registry import JudgeOptions, open_reference
from unified_reward.pairs.bulk import pair_rows
from unified_reward.pairs.preferences import read_pairs
from unified_reward.pairs.strategies import PairOptions, Strategy


SHARE = 14
_BOM = b"\xef\xbb\xbf"
IMAGE, OTHER, CLIP = {"image": "a.png"}, {"image": "sub/b.png"}, {"video": "c.mp4"}


def seeds() -> list[dict[str, Any]]:
    """A sound row of every kind, without an id."""
    target = {"score": 3.5, "scale": [1, 5], "aspects": {"style": 0.5}, "rationale": "sharp"}
    made = {"task": "image_generation", "prompt": "a dog", "candidates": [IMAGE, OTHER]}
    rows: list[dict[str, Any]] = [
        {"task": "image_generation", "prompt": "a red star", "candidates": [IMAGE]},
        {"task": "image_generation", "prompt": "a\u2028b\x85c", "candidates": [IMAGE, OTHER]},
        {"task": "video_generation", "prompt": "it moves", "candidates": [CLIP]},
        {"task": "image_understanding", "prompt": "What?", "candidates": [{"text": "a cat\n"}]},
        {
            "task": "image_understanding",
            "prompt": "?",
            "candidates": [{"text": "x"}, {"text": "y"}],
        },
        {
            "task": "video_understanding",
            "prompt": "é",
            "candidates": [{"text": "\u0000 \U0001f600"}],
        },
        {"task": "image_editing", "prompt": "bluer", "candidates": [IMAGE, OTHER]},
        {**made, "target": {"winner": "first"}, "raters": 3, "tags": {"model_first": "sd"}},
        {**made, "candidates": [IMAGE], "target": target, "source": "mine", "schema": 1},
        {
            **made,
            "candidates": [IMAGE, OTHER, {"image": "a.png", "text": None}],
            "criteria": "style",
        },
        {**made, "candidates": [[{"text": "see"}, IMAGE], [{"text": "or"}, OTHER]]},
        {**made, "candidates": []},
        {**made, "status": "generated", "policy": "p", "seed": 3, "duplicates": 1},
        {**made, "status": "kept", "chosen": OTHER, "rejected": IMAGE, "chosen_score": 0.25},
        {**made, "status": "dropped", "reason": "a tie", "judge": "j", "judge_calls": 4},
        {"status": "failed", "reason": "no candidates", "task": None, "prompt": None},
        {
            "task": "video_generation",
            "prompt": "x" * 3000,
            "candidates": [{"video": ["a.png"] * 2}],
        },
    ]
    for row in rows:
        if row.get("task") in ("image_understanding", "image_editing"):
            row["context"] = [IMAGE]
        elif row.get("task") == "video_understanding":
            row["context"] = [CLIP]
    return rows


def file_of(
    rows: Sequence[dict[str, Any]], rng: Random, p: float = 0.5
) -> tuple[bytes, set[bytes]]:
    """Write some rows, some of them mutated.

    Returns:
        The file, and those of its lines that are as they should be.
    """
    lines: list[bytes] = []
    sound: set[bytes] = set()
    for n in range(rng.randrange(1, 10)):
        row = {"id": f"r{n}", **rng.choice(rows)}
        if rng.random() < 0.05:
            row = {**row, "id": None, "prompt": f"{row.get('prompt')} {n}"}
        if rng.random() < p:
            lines.append(_mutated_line(row, rng))
        else:
            lines.append(json_text(row, rng).encode(errors="surrogatepass"))
            sound.add(lines[-1])
        if rng.random() < 0.05:
            lines.append(rng.choice((b"", b" ", b"\t")))
    end = rng.choice((b"\n", b"\n", b"\n", b"\r\n"))
    data = rng.choice((b"", b"", b"", _BOM)) + end.join(lines) + rng.choice((end, end, b""))
    if rng.random() < 0.08:
        return mutate_bytes(data, rng), set()
    if rng.random() < 0.03:
        return data.decode(errors="replace").encode(rng.choice(("utf-16", "utf-32"))), set()
    return data, sound


def _mutated_line(row: Any, rng: Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = mutate_value(row, rng)
    text = json_text(row, rng)
    if isinstance(row, dict) and row and rng.random() < 0.05:
        text = with_a_key_twice(row, text)
    if rng.random() < 0.3:
        text = mutate_text(text, rng).replace("\n", " ")
    line = text.encode(errors="surrogatepass")
    return mutate_bytes(line, rng).replace(b"\n", b" ") if rng.random() < 0.2 else line


def lines_of(data: bytes) -> dict[int, bytes]:
    """The lines that are not blank, by number from 1."""
    if _BOM.startswith(data):  # cut off inside of the mark
        return {}
    lines = data.removeprefix(_BOM).splitlines()
    return {n: line for n, line in enumerate(lines, 1) if line.strip()}


def loaded(line: bytes) -> Any:
    """The value of a line; ValueError where json cannot read it."""
    try:
        return json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("too deep") from error


def _has_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_has_bool, value)))


def _expect(got: Any, wanted: Any, name: str) -> None:
    same = repr(got) == repr(wanted) or (got == wanted and not _has_bool(wanted))
    if isinstance(wanted, str) and isinstance(got, float):  # a number in quotation marks
        same = got == float(wanted)
    if not same:
        raise WrongReadError(f"{name} is read as {got!r:.60}, the file says {wanted!r:.60}")


def _expect_part(got: Any, wanted: Any, folder: Path, name: str) -> None:
    if isinstance(wanted, dict) and wanted.get("parts") is not None:
        wanted = wanted["parts"]
    if isinstance(wanted, list):
        _expect(len(got) if isinstance(got, tuple) else 1, len(wanted), f"parts of a {name}")
        for one, other in zip(got, wanted, strict=True):
            _expect_part(one, other, folder, name)
    elif isinstance(got, str):
        _expect(got, wanted["text"], name)
    elif isinstance(got, Image):
        _expect(Path(got.source), _place(wanted["image"], folder), name)
    elif isinstance(got, Video) and isinstance(got.source, tuple):
        frames = [Path(frame.source) for frame in got.source]
        _expect(frames, [_place(frame, folder) for frame in wanted["video"]], name)
    else:
        _expect(Path(got.source), _place(wanted["video"], folder), name)


def _place(name: str, folder: Path) -> Path:
    """A file beside the rows; an address stays one, and is refused when it is opened."""
    is_address = "://" in name or name.startswith("data:")
    return Path(name) if is_address else folder / name


def check_example(got: Example, value: Any, folder: Path) -> None:
    """Hold an example against the value of its line."""
    if not isinstance(value, dict):
        raise WrongReadError(f"an example is read of {value!r:.60}")
    _expect(got.task.value, value["task"], "task")
    _expect(got.prompt, value["prompt"], "prompt")
    _expect(got.criteria, value.get("criteria") or "", "criteria")
    _expect(got.source, str("" if value.get("source") is None else value["source"]), "source")
    tags = value.get("tags") or {}
    _expect(dict(got.tags), {name: str(tag) for name, tag in tags.items()}, "tags")
    if value.get("id") not in (None, "") and not got.id.endswith(" again"):
        _expect(got.id, str(value["id"]), "id")
    candidates = value.get("candidates") or []
    _expect(min(len(got.candidates), len(candidates)), len(candidates), "number of candidates")
    for one, other in zip(got.candidates, candidates, strict=False):
        _expect_part(one, other, folder, "candidate")
    for one, other in zip(got.context, value.get("context") or [], strict=True):
        _expect_part(one, other, folder, "context")
    _check_target(got, value.get("target") or {})
    if got.pair is not None:
        for side in ("chosen", "rejected"):
            place = getattr(got.pair, side)
            _expect_part(got.candidates[place], value[side], folder, side)


def _check_target(got: Example, target: Any) -> None:
    for name in ("score", "winner"):
        _expect(getattr(got.target, name), target.get(name), f"target.{name}")
    _expect(got.target.rationale, target.get("rationale", ""), "target.rationale")
    if got.target.scale is not None:
        ends = got.target.scale.low, got.target.scale.high
        for one, other in zip(ends, target["scale"], strict=True):
            _expect(one, other, "target.scale")
    for name, number in (target.get("aspects") or {}).items():
        _expect(got.target.aspects[name], number, f"target.aspects.{name}")


def check_rows(rows: Sequence[Row], data: bytes, folder: Path, sound: set[bytes]) -> None:
    """Hold the rows of a file against its lines: every line is one row, and no row is no line."""
    lines = lines_of(data)
    numbers = [row.line for row in rows]
    if numbers != list(lines):
        lost, new = set(lines) - set(numbers), set(numbers) - set(lines)
        raise RowsLostError(f"lines {sorted(lost)} are lost, {sorted(new)} are no lines")
    if len({row.id for row in rows}) < len(rows):
        raise RowsLostError("two rows have one id")
    for row in rows:
        if isinstance(row.content, Failed):
            is_double = "duplicate id" in row.content.reason
            if lines[row.line] in sound and row.status != "failed" and not is_double:
                raise RowsLostError(f"sound line {row.line} is refused: {row.content.reason}")
            continue
        try:
            value = loaded(lines[row.line])
        except ValueError as error:
            message = f"line {row.line} is read, json refuses it: {error}"
            raise WrongReadError(message) from error
        check_example(row.content, value, folder)


def _is_wide(data: bytes) -> bool:
    """True for a file that says it is no UTF-8."""
    return data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"PAR1"))


class Rows:
    """Files of rows of every kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds = seeds()
        write_media(folder)
        self.judge = open_reference("scripted:random")
        self.steps = (self._pairs, self._convert, self._count, self._journal, self._make, self._mix)
        self.steps += (self._packed,)

    def check(self, rng: Random) -> bool:
        """Read one file by the reader of rows, and by another that stands on it."""
        data, sound = file_of(self.seeds, rng)
        path = self.folder / "rows.jsonl"
        path.write_bytes(data)
        try:
            rows = list(read_examples(path))
            loose = list(read_examples(path, strict=False))
        except DataError as error:
            if _is_wide(data):
                return False
            raise RowsLostError(f"a file is refused for a row: {error}") from error
        check_rows(rows, data, self.folder, sound)
        check_rows(loose, data, self.folder, sound)
        rng.choice(self.steps)(path, rows, rng)
        return True

    def _pairs(self, path: Path, rows: list[Row], _: Random) -> None:
        pairs = list(read_pairs(path))
        if [pair.row.line for pair in pairs] != [row.line for row in rows]:
            raise RowsLostError("read_pairs gives other lines")
        for row, (_, status, pair, _) in zip(rows, pairs, strict=True):
            if pair and not isinstance(row.content, Failed):
                due = row.content.as_pair()
                _expect((pair.chosen, pair.rejected), (due.chosen, due.rejected), "pair")
            elif status == "kept":
                raise RowsLostError(f"line {row.line} is kept without a pair")

    def _convert(self, path: Path, rows: list[Row], _: Random) -> None:
        out, seen = self.folder / "out.jsonl", []
        try:
            written = pack.convert(pack.rows_of(path), out, seen.append)
        except DataError:
            if any(isinstance(row.content, Example) for row in seen):
                raise RowsLostError("convert writes no row of a file with sound rows") from None
            return
        good = [row.content for row in seen if isinstance(row.content, Example)]
        again = list(read_examples(out))
        if len(seen) != len(rows) or written != len(good) or len(again) != written:
            raise RowsLostError(f"{len(rows)} rows, {written} written, {len(again)} read again")
        for before, after in zip(good, again, strict=True):
            if isinstance(after.content, Failed):
                raise RowsLostError(f"written, and not read again: {after.content.reason}")
            names = ("id", "prompt", "criteria", "target", "tags", "pair", "task")
            for name in names:
                _expect(getattr(after.content, name), getattr(before, name), f"again {name}")

    def _packed(self, path: Path, rows: list[Row], rng: Random) -> None:
        """Pack a file with its media, spoil the package, and read what is left of it."""
        out = self.folder / rng.choice(("packed.parquet", "packed.tar"))
        try:
            written = pack.convert(pack.rows_of(path), out, lambda _: None)
        except DataError:
            return
        data = out.read_bytes()
        spoiled = mutate_bytes(data, rng) if rng.random() < 0.7 else data
        out.write_bytes(spoiled)
        try:
            again = list(pack.rows_of(out))
        except DataError:
            if spoiled == data:
                raise RowsLostError("a package that was just written cannot be read") from None
            return
        good = [row for row in again if isinstance(row.content, Example)]
        if (spoiled == data and len(good) != written) or len(good) > len(rows):
            raise RowsLostError(f"{written} rows packed, {len(good)} unpacked")
        known = {row.content.prompt for row in rows if isinstance(row.content, Example)}
        if spoiled == data and any(row.content.prompt not in known for row in good):
            raise WrongReadError("a prompt of no row")

    def _count(self, path: Path, rows: list[Row], _: Random) -> None:
        checked = list(check.check(pack.rows_of(path)))
        if len(checked) != len(rows):
            raise RowsLostError(f"check looks at {len(checked)} of {len(rows)} rows")
        try:
            counts = stats.gather(pack.rows_of(path), n=3, seed=0)
        except DataError:
            if any(isinstance(row.content, Example) for row in rows):
                raise
            return
        if counts.cells.total() + counts.bad.total() != len(rows):
            raise RowsLostError("stats do not count every row")
        stats.page(counts, str(path), None).write(self.folder / "page.html")

    def _journal(self, path: Path, rows: list[Row], rng: Random) -> None:
        """Judge a file, stop anywhere, also in the middle of a row, and go on."""
        out = self.folder / "verdicts.jsonl"
        out.unlink(missing_ok=True)
        size = rng.randrange(1, 5)
        list(islice(self._run(path, out, size), rng.randrange(4)))
        is_changed = rng.random() < 0.2
        if out.exists() and rng.random() < 0.7:
            written = out.read_bytes()
            last = written.rstrip(b"\n").rfind(b"\n") + 1
            out.write_bytes(written[: rng.randrange(last, len(written) + 1)])
        if is_changed and self._check_change(path, out, rows):
            return
        list(self._run(path, out, size))
        made = (
            [json.loads(line) for line in out.read_bytes().splitlines() if line.strip()]
            if rows
            else []
        )
        due = [json.loads(json.dumps(row)) for row in bulk.judge_rows(rows, self.judge)]
        if [row["id"] for row in made] != [row["id"] for row in due]:
            raise RowsLostError(f"{len(made)} verdicts in the journal for {len(due)} rows")
        for one, other in zip(made, due, strict=True):
            _expect({k: one.get(k) for k in other}, other, "verdict after a resume")
        for row in read_verdict_rows(out) if out.exists() else ():
            if row["status"] != "ranked":
                read_verdict(row)

    def _run(self, path: Path, out: Path, size: int) -> Iterator[Any]:
        work = bulk.JudgeWork(path, "scripted:random", JudgeOptions(), 2)
        with open_journal(out) as journal:
            yield from bulk.run(work, lambda: read_examples(path), journal, size=size)

    def _check_change(self, path: Path, out: Path, rows: list[Row]) -> bool:
        """A run does not go on where the prompt of a row that is done has changed."""
        first = rows[0].content if rows else None
        if not isinstance(first, Example) or first.id not in Journal(out).done:
            return False
        written = out.read_bytes()
        line = example_row(replace(first, prompt=f"{first.prompt} changed"), self.folder)
        path.write_text(json.dumps(line), "utf-8")
        try:
            list(self._run(path, out, 1))
        except ConfigError:
            if out.read_bytes() != written:
                raise RowsLostError("a refused run changes the journal") from None
            return True
        raise WrongReadError("verdicts on another prompt are kept under the same id")

    def _make(self, path: Path, rows: list[Row], rng: Random) -> None:
        """Make pairs, and read them again."""
        options = PairOptions(rng.choice(list(Strategy)), 0.0, None, 2, 1, 0, 0)
        judge = open_reference("scripted:random")
        made = pair_rows(rows, judge, options, self.folder)
        if [row["id"] for row in made] != [row.id for row in rows]:
            raise RowsLostError("pairs of other rows")
        out = self.folder / "pairs.jsonl"
        out.unlink(missing_ok=True)
        Journal(out).append(made)
        again = list(read_pairs(out))
        bad = [pair.reason for pair in again if pair.status == "unusable"]
        if len(again) != len(made) or bad:
            raise RowsLostError(f"{len(made)} pairs made, {len(again)} read: {bad[:1]}")

    def _mix(self, path: Path, rows: list[Row], rng: Random) -> None:
        """Mix it with an excluded id, and read it for training."""
        good = [row for row in rows if isinstance(row.content, Example)]
        banned = rng.choice(good).id if good else "none"
        if (
            any(not one.isprintable() or one.isspace() for one in banned)
            or banned != banned.strip()
        ):
            banned = "none"
        ids = self.folder / "ids.txt"
        mark, end = rng.choice(("", "\ufeff")), rng.choice(("\n", "\r\n", ""))
        ids.write_text(f"{mark}{banned}{end}", "utf-8", newline="")
        out = self.folder / "mixed"
        shutil.rmtree(out, ignore_errors=True)
        recipe = mix.Mix((mix.MixSource(path),), exclude=(ids,), splits={"train": 1.0})
        try:
            report = mix.mix(recipe, out)
        except (DataError, MediaError, ConfigError):
            return
        counted = report["sources"][0]
        skipped = counted["dropped"] + counted["failed"]
        if counted["read"] + skipped != len(rows):
            raise RowsLostError(f"mix reads {counted['read']} and skips {skipped} of {len(rows)}")
        mixed = list(read_examples(out / "train.jsonl"))
        if any(row.id == banned or isinstance(row.content, Failed) for row in mixed):
            raise WrongReadError(
                "an excluded id, or a row that cannot be read, in the training file"
            )
        try:
            file = ExampleFile(out / "train.jsonl", seed=0)
        except DataError:
            return
        if {file[i].id for i in range(len(file))} != {row.id for row in mixed}:
            raise RowsLostError("training reads other rows than the file has")


def write_media(folder: Path) -> None:
    """The media that the seeds name."""
    (folder / "sub").mkdir(exist_ok=True)
    for i, name in enumerate(("a.png", "sub/b.png")):
        file = io.BytesIO()
        PIL.Image.fromarray(picture(seed=i)).save(file, "PNG")
        (folder / name).write_bytes(file.getvalue())
    (folder / "c.mp4").write_bytes(encode("mpeg4", "mp4", "yuv420p"))
