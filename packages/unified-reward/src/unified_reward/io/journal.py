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


_ROW_BEGINS = b'{"id": '


class Journal:
    """Append-only JSONL file of rows with ids, from which a stopped run resumes.

    A torn last line, left by a kill, is cut off when the journal is opened. Every row begins with
    its id, which distinguishes a torn row from the end of another kind of file.
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
        """Judge and family of the rows."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._resume()
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}") from error

    def _resume(self) -> None:
        with self.path.open("rb+") as file:
            sound = 0
            for number, raw in enumerate(file, 1):
                if _is_torn(raw):
                    break
                row = _journal_row(raw, number, self.path)
                if not raw.endswith(b"\n"):
                    break
                self.done[str(row["id"])] = str(row["status"])
                self.judges.add((str(row.get("judge")), str(row.get("family"))))
                sound += len(raw)
            file.truncate(sound)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and push them to the disk before returning.

        Raises:
            DataError: The disk is full or the file cannot be written; earlier rows stay.
        """
        rows = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error
        self.done |= {str(row["id"]): str(row["status"]) for row in rows}


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
