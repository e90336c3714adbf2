"""Notes on the rows of a run that were compared, so that a resumed run does not compare them again.

A checkpoint says that a run, or its check, has found the first bytes of an input, the first bytes
of the output and the media of these rows to belong together. It holds hashes of both and the state
of each medium in the file system; while all of these are the same, the rows are. It is a note to
save time: without it, or where anything differs, every row is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from unified_reward.core.samples import Image, Video


VERSION = 1
"""Changes with the meaning of a fingerprint, and of a line here."""
_SURE_S = 2.0
"""Age at which a change of a file is seen by its times, whatever the clock's steps."""
_BLOCK = 2**20
_N_RECENT = 2**12
"""Media that are not noted twice in a row, and those that wait to be written."""
_BEGIN = b'["checkpoint"'


@dataclass(frozen=True)
class Checkpoint:
    """First rows of an input that are all in the output, and no others."""

    version: int
    about: list[str]
    """Folder where a relative path starts, the input, and what the work reads of it."""
    input_bytes: int
    """Bytes of the rows, behind a byte order mark."""
    input_lines: int
    input_sha256: str
    output_bytes: int
    output_sha256: str
    outcomes: dict[str, int]
    """Number of the rows by their outcome."""
    judges: list[list[str]]
    """Judge and family of the rows that did not fail."""

    @property
    def line(self) -> str:
        """Line of the checkpoint, with a hash of its fields."""
        fields = asdict(self)
        return json.dumps(["checkpoint", fields, _hash(fields)], allow_nan=False)

    @classmethod
    def read(cls, line: bytes) -> Checkpoint | None:
        """Read a line; None for one that is torn, damaged or of another version."""
        try:
            _, fields, digest = json.loads(line)
            made = cls(**fields)
        except (ValueError, TypeError):
            return None
        return made if made.version == VERSION and _hash(fields) == digest else None


class Checkpoints:
    """Lines beside an output: checkpoints, each behind the media of its rows."""

    def __init__(self, out: Path) -> None:
        """Look for the last checkpoint; nothing is written."""
        real = Path(os.path.realpath(out))
        self._path = real.parent / f".{real.name}.checked"
        self._end = 0
        self._recent: set[str] = set()
        self._waiting: list[str] = []
        self._is_on = True
        self.last: Checkpoint | None = None
        """The last checkpoint in the file; nothing in it has been compared yet."""
        with suppress(OSError), self._path.open("rb") as file:
            place = 0
            for line in file:
                place += len(line)
                if line.startswith(_BEGIN) and (found := Checkpoint.read(line)):
                    self.last, self._end = found, place

    def forget(self, *, for_good: bool = False) -> None:
        """Begin anew, since rows or media have changed, or write no more."""
        self._is_on = self._is_on and not for_good
        self.last, self._end = None, 0
        self._recent.clear()
        self._waiting.clear()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def are_media_unchanged(self) -> bool:
        """True if every medium of the rows before the last checkpoint is as it was then."""
        with suppress(OSError, ValueError), self._path.open("rb") as file:
            place = 0
            for line in file:
                place += len(line)
                if place > self._end:
                    break
                if not line.startswith(_BEGIN):
                    path, state = json.loads(line)
                    if not state or state != _state(path):
                        return False
            return True
        return False

    def note(self, media: Iterable[Image | Video]) -> None:
        """Note the states of media, before their fingerprints are taken."""
        for path in _paths(media):
            if path not in self._recent:
                self._recent.add(path)
                self._waiting.append(json.dumps([path, _state(path)], allow_nan=False))
        if len(self._recent) >= _N_RECENT:
            self._recent.clear()
            self._write(())

    def add(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, behind the media that were noted."""
        self._write([checkpoint.line])
        self.last = checkpoint

    def _write(self, lines: Iterable[str]) -> None:
        """Append lines; a file that cannot be written is done without."""
        text = "".join(f"{line}\n" for line in (*self._waiting, *lines)).encode()
        self._waiting.clear()
        if not self._is_on:
            return
        try:
            with self._path.open("rb+" if self._path.exists() else "wb") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(text)
            self._end += len(text)
        except OSError:
            self._is_on = False
            self.forget()


def hashed(file: IO[bytes], n: int) -> Any:
    """SHA-256 of the next n bytes of a file, to be gone on with; None where it has fewer."""
    digest = hashlib.sha256()
    while n and (block := file.read(min(n, _BLOCK))):
        digest.update(block)
        n -= len(block)
    return None if n else digest


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, allow_nan=False).encode()).hexdigest()


def _paths(media: Iterable[Image | Video]) -> Iterator[str]:
    for medium in media:
        if isinstance(medium.source, tuple):
            yield from _paths(medium.source)
        elif isinstance(medium.source, str | Path):
            yield str(medium.source)


def _state(path: str) -> str:
    """State of a file in the file system; empty where a change now might leave no trace in it."""
    try:
        status = os.stat(path)  # noqa: PTH116  called for every medium, and pathlib is slow
    except (OSError, ValueError):
        return "missing"
    if time.time() - max(status.st_mtime, status.st_ctime) < _SURE_S:
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
