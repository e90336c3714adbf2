"""Mutated tables: of ``table:`` judges and of published sources, and, independently, by csv."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.kind import RowsLostError, WrongReadError
from benchmarks.fuzz.mutate import json_text, mutate_bytes, mutate_text, mutate_value
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scored
from unified_reward.data.sources import read_source
from unified_reward.io.rows import Row
from unified_reward.judges.table import TableJudge


SHARE = 10
_SCORES = ["id", "candidate", "value"]
_WINNERS = ["id", "winner", "probability"]
_RATINGS = ["id", "annotator", "prompt", "image", "score", "aspect_style"]
_VOTES = ["id", "annotator", "prompt", "image_a", "image_b", "vote"]
_LONG = "x" * 140_000 + "\nr1,eve,evil,evil.png,1,1\nr2,eve,evil,evil.png,evil.png,a\n"


def _cell(column: str, rng: Random, n: int) -> str:
    odd = {"id": f"id, {n}", "prompt": rng.choice(('a "red" star', "two\nlines", "é", _LONG))}
    usual = {
        "id": f"r{n}",
        "candidate": rng.choice(("0", "1", "")),
        "value": f"{rng.uniform(-3, 3):.3f}",
        "winner": rng.choice(("first", "tie", "second", "both_good")),
        "probability": "",
        "annotator": rng.choice(("ann", "bob")),
        "prompt": "a star",
        "vote": rng.choice(("a", "b", "tie")),
        "score": str(rng.randrange(1, 6)),
        "aspect_style": rng.choice(("", "2", "3.5")),
    }
    if column in odd and rng.random() < 0.2:
        return odd[column]
    return usual.get(column, f"{column}{n}.png")


def _rows(columns: list[str], rng: Random) -> list[dict[str, str]]:
    return [{c: _cell(c, rng, n) for c in columns} for n in range(rng.randrange(1, 8))]


def _written(rows: list[dict[str, Any]], columns: list[str], suffix: str, rng: Random) -> bytes:
    if suffix in (".jsonl", ".json"):
        texts = [json_text(row, rng) for row in rows]
        text = "\n".join(texts) + "\n" if suffix == ".jsonl" else "[" + ",\n".join(texts) + "]"
    else:
        file = io.StringIO()
        end = rng.choice(("\n", "\r\n"))
        table = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator=end)
        table.writerow(columns)
        table.writerows([row.get(column, "") for column in columns] for row in rows)
        text = file.getvalue()
    mark = "\ufeff" if rng.random() < 0.15 else ""
    return (mark + text).encode(errors="surrogatepass")


def _mutated(rows: list[dict[str, Any]], data: bytes, suffix: str, rng: Random) -> bytes:
    action = rng.randrange(5)
    if action < 2 and rows and suffix == ".jsonl":
        lines = data.decode(errors="replace").split("\n")
        i = rng.randrange(len(rows))
        lines[i] = json_text(mutate_value(rows[i], rng), rng).replace("\n", " ")
        return "\n".join(lines).encode(errors="surrogatepass")
    if action < 4:
        return mutate_text(data.decode(errors="replace"), rng).encode(errors="surrogatepass")
    return mutate_bytes(data, rng)


def _conversation(n: int, rng: Random) -> dict[str, Any]:
    answer = f"Image {rng.randrange(1, 3)} is better{rng.choice(('', '.'))}"
    question = (
        f"<image>\n<image>\nWhich is better for a {rng.choice(('dog', 'café', 'x' * 70_000))}?"
    )
    turns = [("human", question), ("gpt", answer)]
    return {
        "id": rng.choice((f"r{n}", n)),
        "images": [f"a{n}.png", f"b{n}.png"],
        "conversations": [{"from": speaker, "value": value} for speaker, value in turns],
    }


def _published(name: str, n: int, rng: Random) -> dict[str, Any]:
    """A sound row of a published source."""
    marks = [rng.randrange(1, 6) for _ in range(3)]
    words = rng.choice(("A", "same", "B"))
    rows: dict[str, dict[str, Any]] = {
        "imagereward": {"generations": ["a.png", "b.png", "c.png"], "ranking": marks},
        "videoalign": {"path_A": "a.mp4", "path_B": "b.mp4", "VQ": words, "Overall": words},
        "pickapic_val500": {"caption": "a hen", "label": rng.choice(("0", "tie", "1"))}
        | {f"image_{i}_url": f"https://host/{n}-{i}.png?w=9" for i in (0, 1)},
        "fetv": {"model": "m", "alignment": marks, "static_quality": marks}
        | {"temporal_quality": marks},
        "evalmuse_ratings": {"prompt_id": n, "img_path": f"{n}.png", "total_score": marks}
        | {"element_score": {"car (object)": [1, 1, 0]}},
    }
    return {"id": n, "prompt": f"a boat {n}", **rows[name]}


_PUBLISHED = ("imagereward", "videoalign", "pickapic_val500", "fetv", "evalmuse_ratings")
_WINNERS_OF = {
    "Image 1 is better": "first",
    "Image 2 is better": "second",
    "A": "first",
    "same": "tie",
    "B": "second",
    "0": "first",
    "tie": "tie",
    "1": "second",
}


def reference(data: bytes, suffix: str) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a file with the line each ends on; ValueError where it is not a table."""
    text = data.decode("utf-8").removeprefix("\ufeff")
    if suffix == ".jsonl":
        lines = enumerate(text.split("\n"), 1)
        return [(n, json.loads(line)) for n, line in lines if line.strip()]
    delimiter = "\t" if suffix == ".tsv" else ","
    limit = csv.field_size_limit(sys.maxsize)
    try:
        text = text.lstrip("\r\n")
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [re.sub(r"^[\s\ufeff]+|\s+$", "", name) for name in table.fieldnames or ()]
        table.fieldnames = names
        return [(table.line_num, row) for row in table]
    finally:
        csv.field_size_limit(limit)


class Tables:
    """Tables of verdicts, and annotations of a user's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, rng: Random) -> bool:
        """Read one table."""
        if rng.random() < 0.2:
            return self._published(rng)
        judged = rng.random() < 0.5
        if judged:
            columns = rng.choice((_SCORES, _SCORES[::2], _WINNERS, _WINNERS[:2]))
            suffix = rng.choice((".csv", ".csv", ".jsonl", ".tsv"))
        else:
            columns, suffix = rng.choice((_RATINGS, _VOTES)), rng.choice((".csv", ".tsv", ".jsonl"))
        rows = _rows(columns, rng)
        data = _written(rows, columns, suffix, rng)
        is_sound = rng.random() < 0.25
        if not is_sound:
            data = _mutated(rows, data, suffix, rng)
        path = self.folder / f"table{suffix}"
        path.write_bytes(data)
        if judged:
            return self._judge(path, data, suffix, is_sound=is_sound)
        name = "annotated.image_generation." + ("score" if columns is _RATINGS else "compare")
        return self._source(path, data, suffix, name, is_sound=is_sound)

    def _published(self, rng: Random) -> bool:
        """Read a published set, of a JSON array or of lines."""
        suffix, name = rng.choice((".json", ".jsonl")), rng.choice(("hpd", *_PUBLISHED))
        make = _conversation if name == "hpd" else partial(_published, name)
        rows = [make(n, rng) for n in range(rng.randrange(1, 7))]
        spoiled = [mutate_value(row, rng) if rng.random() < 0.3 else row for row in rows]
        data = _written(spoiled, [], suffix, rng)
        is_torn = rng.random() < 0.3
        if is_torn:
            data = mutate_bytes(data, rng)
        path = self.folder / f"published{suffix}"
        path.write_bytes(data)
        try:
            got = list(read_source(path, name))
        except DataError as error:
            if not is_torn:
                raise RowsLostError(f"a file is refused for a row: {error}") from error
            return False
        if is_torn or any("no row after it" in row.reason for row in got):
            return True
        if [*dict.fromkeys(row.line for row in got)] != list(range(1, len(rows) + 1)):
            raise RowsLostError(f"{len(got)} records of {len(rows)} rows of {name}")
        for row in got:
            self._check_record(row, rows[row.line - 1], spoiled[row.line - 1])
        return True

    def _check_record(self, row: Row, sound: dict[str, Any], given: Any) -> None:
        if isinstance(row.content, Failed):
            if given is sound and "duplicate" not in row.reason:
                raise RowsLostError(f"a sound row is refused: {row.reason}")
            return
        said = given.get("Overall", given.get("label"))
        if "conversations" in given:
            said = given["conversations"][1]["value"].rstrip(".")
        winner = _WINNERS_OF.get(said) if isinstance(said, str) else None
        if winner and row.content.target.winner != winner:
            raise WrongReadError(f"{row.content.target.winner} is read of {said!r}")
        marks = given.get("total_score")
        if marks and row.content.target.score != sum(map(float, marks)) / len(marks):
            raise WrongReadError(f"{row.content.target.score} is read of {marks}")

    def _judge(self, path: Path, data: bytes, suffix: str, *, is_sound: bool) -> bool:
        try:
            judge = TableJudge.read(path)
        except DataError as error:
            if is_sound and suffix != ".tsv" and "already" not in str(error):
                raise RowsLostError(f"a sound table is refused: {error}") from error
            return False
        try:
            rows = reference(data, suffix)
        except (ValueError, csv.Error) as error:
            if b"\r" in data.replace(b"\r\n", b""):
                return True  # it is open whether a row ends there
            raise WrongReadError(f"read, the reference refuses it: {error}") from error
        for line, row in rows:
            self._check_verdict(judge, line, row)
        return True

    def _check_verdict(self, judge: TableJudge, line: int, row: dict[str, Any]) -> None:
        if not isinstance(row, dict):
            raise WrongReadError(f"line {line} is no row")
        is_winner = "winner" in row
        place = 0 if is_winner else int(row.get("candidate") or 0)
        if place > 10**6:
            return
        name = str(row["id"]) if is_winner or place == 0 else f"{row['id']} {place}"
        answers = tuple(f"answer {i}" for i in range(2 if is_winner else 1))
        sample = Sample(Task.IMAGE_UNDERSTANDING, "", answers, (Image("a.png"),), id=name)
        (verdict,) = judge.ask([sample])
        if isinstance(verdict, Scored) and verdict.score and not is_winner:
            value = row["value"]
            if isinstance(value, bool) or float(value) != verdict.score.value:
                raise WrongReadError(f"line {line}: {verdict.score.value}, the file has {value!r}")
        elif isinstance(verdict, Preferred) and is_winner:
            self._check_winner(verdict, line, row)
        elif "\0" not in name:
            raise RowsLostError(f"line {line} has no verdict: {verdict!r:.100}")

    def _check_winner(self, verdict: Preferred, line: int, row: dict[str, Any]) -> None:
        winner = {"both_good": "tie", "both_bad": "tie"}.get(row["winner"], row["winner"])
        given = row.get("probability")
        if given in (None, ""):
            if winner != verdict.winner:
                raise WrongReadError(f"line {line}: {verdict.winner}, the file has {winner}")
        elif isinstance(given, bool) or not math.isclose(
            float(given), verdict.p_first, abs_tol=1e-9
        ):
            raise WrongReadError(f"line {line}: {verdict.p_first}, the file has {given!r}")
        elif winner not in ("", None, verdict.winner):
            raise WrongReadError(f"line {line}: winner {winner} is read as {verdict.winner}")

    def _source(self, path: Path, data: bytes, suffix: str, name: str, *, is_sound: bool) -> bool:
        try:
            got = list(read_source(path, name))
        except (DataError, ConfigError):
            return False
        try:
            rows = reference(data, suffix)
        except ValueError:
            return True  # some rows are refused one by one; which, the reference cannot tell
        except csv.Error:
            return True
        if is_sound and (bad := [row.reason for row in got if isinstance(row.content, Failed)]):
            raise RowsLostError(f"a sound row is refused: {bad[0]}")
        good = {row.id: row.content for row in got if isinstance(row.content, Example)}
        bad = {row.line for row in got if isinstance(row.content, Failed)}
        known = [row for _, row in rows if isinstance(row, dict)]
        ids = {str(row.get("id")) for row in known}
        if None in ids or "" in ids or not all("id" in row for row in known):
            return True
        if any("no row after it" in row.reason or "no CSV in lines" in row.reason for row in got):
            return True  # a quote that is not closed swallows rows, and says which
        if strange := set(good) - ids:
            raise RowsLostError(f"invented: {sorted(strange)!r:.100}")
        if len(good) + len(bad) < len({key for key in ids if key}):
            raise RowsLostError(f"{len(ids)} items: {len(good)} read and {len(bad)} refused")
        for key, content in good.items():
            self._check_item(content, [row for row in known if str(row["id"]) == key], name)
        return True

    def _check_item(self, got: Example, rows: list[dict[str, Any]], name: str) -> None:
        if not any(got.prompt == row.get("prompt") for row in rows):
            raise WrongReadError(f"prompt {got.prompt!r:.50} of {got.id!r} is none of the file's")
        if len(rows) > 1 or not name.endswith("score"):
            return
        value = rows[0].get("score")
        if value not in (None, "") and got.target.score != float(value):
            raise WrongReadError(f"{got.id!r}: {got.target.score}, the file has {value!r}")
