"""Append-only journal that makes runs resumable: rows with ids, one a line.

Knows ids and states of rows, not their content.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.io.verdict_rows import NOTE


_ROW_BEGINS = b'{"id": '


class Journal:
    """Append-only JSONL file of rows with ids, from which a stopped run resumes.

    Opening it changes nothing. A torn last line, left by a kill, is cut off before the first row is
    appended. Every row begins with its id, which distinguishes a torn row from the end of another
    kind of file.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or start one.

        Raises:
            DataError: The file holds other content than rows with id and status, or cannot be
                opened; it is left as it is.
        """
        self.path = path
        self.done: dict[str, str] = {}
        """Status by id."""
        self.judges: set[tuple[str, str]] = set()
        """Judge and family of the rows that were there when it was opened."""
        self.keys: set[frozenset[str]] = set()
        """Keys of those rows; rows of one kind have the same."""
        self.with_reason: set[str] = set()
        """Ids of rows that have a reason, such as for what is missing in them."""
        self._sound = 0
        self._ending = b""
        self._is_torn = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}") from error

    def _read(self) -> None:
        with self.path.open("rb+") as file:
            for number, raw in enumerate(file, 1):
                if _is_torn(raw):
                    self._is_torn = True
                    break
                row = _journal_row(raw, number, self.path)
                self._note(row)
                self.judges.add((str(row.get("judge")), str(row.get("family"))))
                self.keys.add(frozenset(row))
                self._sound += len(raw)
                self._ending = b"" if raw.endswith(b"\n") else b"\n"

    def _note(self, row: Mapping[str, Any]) -> None:
        self.done[str(row["id"])] = str(row["status"])
        if row.get("reason") and not str(row["reason"]).startswith(NOTE):
            self.with_reason.add(str(row["id"]))

    def repair(self) -> None:
        """Cut off a torn last line, and end a complete one; `append` does so by itself.

        Raises:
            DataError: The file cannot be written.
        """
        if not self._is_torn and not self._ending:
            return
        try:
            with self.path.open("rb+") as file:
                file.truncate(self._sound)
                file.seek(self._sound)
                file.write(self._ending)
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error
        self._is_torn, self._ending = False, b""

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and push them to the disk before returning.

        Raises:
            DataError: The disk is full or the file cannot be written; earlier rows stay.
        """
        self.repair()
        rows = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error
        for row in rows:
            self._note(row)


def _is_torn(raw: bytes) -> bool:
    """True for a line that is the beginning of a row, and not a whole line of anything."""
    begins = raw.startswith(_ROW_BEGINS) or _ROW_BEGINS.startswith(raw)
    if raw.endswith(b"\n") or not begins:
        return False
    try:
        json.loads(raw)
    except ValueError:
        return True
    return False


def _journal_row(raw: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(raw)
        if row["id"] is not None and row["status"] is not None:
            return row
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} line {number} has no id and status; give another output file")
