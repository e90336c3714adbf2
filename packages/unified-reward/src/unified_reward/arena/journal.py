"""Journal of an arena: votes are appended, and on the disk before they are acknowledged."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from unified_reward.core.errors import DataError
from unified_reward.io.atomic import written
from unified_reward.io.lock import locked
from unified_reward.io.text import parse_json, read_lines
from unified_reward.io.vote_rows import Vote, read_all_votes


_ROW_BEGINS = b'{"id": '


@contextmanager
def open_votes(path: Path) -> Generator[VoteJournal]:
    """Open a journal that no other arena writes to until the block ends.

    Raises:
        ConfigError: Another arena is writing to it.
        DataError: See `VoteJournal`.
    """
    with locked(path):
        yield VoteJournal(path)


class VoteJournal:
    """Append-only file of votes.

    Opening it changes nothing. A torn last line, left by a kill, is cut off before the next vote
    is appended.
    """

    def __init__(self, path: Path) -> None:
        """Read a journal, or start one.

        Raises:
            DataError: The file cannot be read, or holds something else than votes.
        """
        self._path = path
        self.restored: tuple[Vote, ...] = ()
        """Rows that were there when it was opened, also votes that were taken back."""
        self.n_rows = 0
        self._end = 0
        self._size: int | None = 0
        """Bytes of the file as this journal left it; None after a write that failed."""
        self._ending = b""
        if path.exists():
            self._read()

    def _read(self) -> None:
        for line, start, raw in read_lines(self._path):
            self._end = start + len(raw)
            if raw.endswith(b"\n"):
                continue
            try:
                parse_json(raw)
                self._ending = b"\n"
            except ValueError as error:
                if not (raw.startswith(_ROW_BEGINS) or _ROW_BEGINS.startswith(raw)):
                    raise DataError(f"{self._path} line {line} is no vote: {error}") from error
                self._end = start
        self._size = self._path.stat().st_size
        self.restored = tuple(read_all_votes(self._path))
        self.n_rows = len(self.restored)

    def append(self, vote: Vote) -> None:
        """Write a vote, and push it to the disk before returning.

        Raises:
            DataError: The disk is full, the file cannot be written, or somebody else moved or
                changed it; the vote is not in it.
        """
        row = json.dumps(vote.row(self._path.parent), ensure_ascii=False, allow_nan=False)
        content = self._ending + row.encode(errors="replace") + b"\n"
        with written(self._path), self._path.open("r+b" if self._end else "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._end or self._size not in (size, None):
                raise DataError(f"{self._path} was changed while the arena runs; start it again")
            self._size = None
            file.truncate(self._end)  # what a kill or a full disk left behind the last whole row
            file.seek(self._end)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(content)
        self._size = self._end
        self._ending = b""
        self.n_rows += 1
