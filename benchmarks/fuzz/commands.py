"""The command line in this process, on mutated files: exit codes, tracebacks and strict JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from typer.testing import CliRunner

from benchmarks.fuzz.images import Images
from benchmarks.fuzz.kind import RowsLostError, WrongReadError
from benchmarks.fuzz.mutate import mutate_bytes, mutate_media
from benchmarks.fuzz.rows import file_of, lines_of, seeds, write_media
from unified_reward.cli import app
from unified_reward.core.errors import UnifiedRewardError
from unified_reward.pairs.export import Format


SHARE = 5
_BROKEN = "line\nbreak"


def _refuse(name: str) -> NoReturn:
    raise WrongReadError(f"{name} in JSON")


def strict_rows(text: str) -> list[dict[str, Any]]:
    """Rows of JSON, one a line, without NaN."""
    try:
        return [json.loads(line, parse_constant=_refuse) for line in text.split("\n") if line]
    except json.JSONDecodeError as error:
        raise WrongReadError(f"standard output is no JSON: {error}") from error


def odd_places(folder: Path) -> list[Path]:
    """Names that are no file, or those of files that no program expects."""
    places = folder / "odd"
    places.mkdir()
    sound = (folder / "a.png").read_bytes()
    names = (
        "two words",
        "line\nbreak",
        "[bold]",
        "-x",
        "é\u2028",
        "\udcff\udcfe.png",
        "a.JSONL",
        "%s",
    )
    for name in names:
        (places / name).write_bytes(sound)
    (places / "loop").symlink_to("loop")
    (places / "empty").touch()
    os.mkfifo(places / "pipe")
    (places / "folder.jsonl").mkdir()
    found = sorted(places.iterdir())
    missing = (
        "x" * 5000,
        "nul\0.png",
        "gone/b.png",
        "a.png/b",
        "",
        "~/a.png",
        "https://host/a.png",
    )
    return [*found, *(places / name for name in missing), Path("/dev/null")]


class Commands:
    """Commands that read files of rows or media."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = seeds()
        write_media(folder)
        self.images = Images(folder).seeds
        self.runner = CliRunner()
        self.steps = (self._judge, self._judge, self._pairs, self._show, self._data, self._score)
        self.steps += (self._odd_place,)
        self.places = odd_places(folder)

    def check(self, rng: Random) -> bool:
        """Run one command."""
        return rng.choice(self.steps)(rng)

    def _run(self, *arguments: object) -> tuple[int, str]:
        """Exit code and standard output; 2 for an error of the library, as `main` makes it."""
        result = self.runner.invoke(app, [str(argument) for argument in arguments])
        error = result.exception
        if isinstance(error, UnifiedRewardError):
            message = str(error).strip().replace(_BROKEN, "")
            if "\n" in message and "give one of these" not in message:
                raise WrongReadError(f"an error of several lines: {str(error)!r:.200}")
            return 2, result.stdout
        if error is not None and not isinstance(error, SystemExit):
            raise error
        if result.exit_code not in (0, 1, 2):
            raise WrongReadError(f"exit code {result.exit_code}")
        return result.exit_code, result.stdout

    def _file(self, rng: Random) -> tuple[Path, bytes]:
        data, _ = file_of(self.rows, rng)
        path = self.folder / "rows.jsonl"
        path.write_bytes(data)
        for name in ("out.jsonl", "out.jsonl.config.json", "out.html", "out.json", "out.parquet"):
            (self.folder / name).unlink(missing_ok=True)
        return path, data

    def _judge(self, rng: Random) -> bool:
        path, data = self._file(rng)
        out = self.folder / "out.jsonl"
        kind = rng.choice(("random", "first", "silent", "perfect"))
        command = ("judge", path, out, "--judge", f"scripted:{kind}", "--json")
        code, text = self._run(*command)
        made = strict_rows(text)
        if code == 2:
            return False
        is_spoiled = False
        if rng.random() < 0.5 and out.exists():
            is_spoiled = rng.random() < 0.3
            written = out.read_bytes()
            out.write_bytes(mutate_bytes(written, rng) if is_spoiled else _torn(written, rng))
            code, text = self._run(*command)
            strict_rows(text)
            if code == 2:
                return False
        rows = strict_rows(out.read_text("utf-8")) if out.exists() else []
        n = len(lines_of(data))
        # A spoiled id is one of no row, and its row is judged again.
        if len(rows) < n or (len(rows) > n and not is_spoiled):
            raise RowsLostError(f"{len(rows)} verdicts of {n} rows, {len(made)} printed")
        return True

    def _pairs(self, rng: Random) -> bool:
        path, _ = self._file(rng)
        out = self.folder / "out.jsonl"
        code, text = self._run("pairs", path, out, "--judge", "scripted:random", "--json")
        strict_rows(text)
        if code != 2:
            name = self.folder / rng.choice(("out.json", "out.parquet"))
            self._run("export", out, name, "--format", rng.choice(list(Format)))
            self._run("show", out, "--out", self.folder / "out.html")
        return code != 2

    def _show(self, rng: Random) -> bool:
        path, _ = self._file(rng)
        code, _ = self._run("show", path, "--out", self.folder / "out.html", "--n", 3)
        return code != 2

    def _data(self, rng: Random) -> bool:
        path, _ = self._file(rng)
        action = rng.randrange(3)
        if action == 0:
            code, text = self._run(
                "data", "check", path, "--json", *["--decode"] * rng.randrange(2)
            )
            strict_rows(text)
        elif action == 1:
            code, _ = self._run("data", "stats", path, "--out", self.folder / "out.html")
        else:
            suffix = rng.choice((".parquet", ".tar", ".jsonl", ""))
            out = self.folder / f"packed{suffix}"
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            code, _ = self._run("data", "convert", path, out)
            if code != 2:
                self._run("data", "check", out)
        return code != 2

    def _odd_place(self, rng: Random) -> bool:
        """A file that is none, or has an odd name, as input and as output."""
        place, rows = rng.choice(self.places), self.folder / "sound.jsonl"
        # A pipe as an output waits for its reader, as it should.
        target = (
            Path("/dev/full") if place.name == "pipe" else rng.choice((place, Path("/dev/full")))
        )
        rows.write_text(json.dumps({"id": "a", **self.rows[0]}), "utf-8")
        out = self.folder / "odd.jsonl"
        out.unlink(missing_ok=True)
        judge = ("--judge", "scripted:tie")
        commands: list[tuple[object, ...]] = [
            ("score", "a star", place, *judge, "--json"),
            ("compare", "a star", place, self.folder / "a.png", *judge, "--json"),
            ("judge", place, out, *judge, "--json"),
            ("judge", rows, target, *judge, "--json"),
            ("judge", rows, out, "--judge", f"table:{place}", "--json"),
            ("pairs", place, out, *judge, "--json"),
            ("export", place, self.folder / "out.json", "--format", "llamafactory"),
            ("show", place, "--out", self.folder / "out.html"),
            ("show", rows, "--out", target),
            ("data", "check", place, "--json"),
            ("data", "convert", place, self.folder / "converted.jsonl"),
            ("data", "convert", rows, target),
            ("data", "stats", place, "--out", self.folder / "out.html"),
            ("data", "mix", place, self.folder / "mixed"),
            ("run", place),
            ("templates", "import", place),
        ]
        command = rng.choice(commands)
        code, text = self._run(*command)
        if "--json" in command:
            strict_rows(text)
        return code != 2

    def _score(self, rng: Random) -> bool:
        file = self.folder / rng.choice(("x.png", "x.mp4", "x"))
        file.write_bytes(mutate_media(rng.choice(self.images), rng, self.images))
        verb = rng.choice(("score", "compare", "rank"))
        files = [file] if verb == "score" else [file, self.folder / "a.png"]
        judge = ("--judge", f"scripted:{rng.choice(('random', 'tie'))}", "--json")
        code, text = self._run(verb, "a star", *files, *judge)
        strict_rows(text)
        return code != 2


def _torn(written: bytes, rng: Random) -> bytes:
    last = written.rstrip(b"\n").rfind(b"\n") + 1
    return written[: rng.randrange(last, len(written) + 1)]
