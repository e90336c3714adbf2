"""Append-only journal that makes runs resumable: rows with ids, one a line.

Knows ids and states of rows, not their content.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.io.atomic import replacing, written
from unified_reward.io.lock import locked
from unified_reward.io.verdict_rows import NOTE


_ROW_BEGINS = b'{"id": '
FINGERPRINT = "fingerprint"
"""Last key of a row: fingerprint of the input that it was made from."""


@contextmanager
def open_journal(path: Path) -> Generator[Journal]:
    """Open a journal that no other run writes to until the block ends; see `Journal`.

    Raises:
        ConfigError: Another run is writing to it.
        DataError: See `Journal`.
    """
    with locked(path):
        yield Journal(path)


class Journal:
    """Append-only JSONL file of rows with ids, from which a stopped run resumes.

    Opening it changes nothing. A torn last line, left by a kill, is cut off before the first row is
    appended. Every row begins with its id, which distinguishes a torn row from the end of another
    kind of file.
    """

    def __init__(self, path: Path) -> None:
        """Read a journal, or start one; `open_journal` also locks it.

        Raises:
            DataError: The file holds other content than rows with id and status, or an id twice,
                or cannot be opened; it is left as it is.
        """
        self.path = path
        self.done: dict[str, str] = {}
        """Status by id."""
        self.fingerprints: dict[str, str] = {}
        """Fingerprint of the input by id; empty where a row has none."""
        self.judges: set[tuple[str, str]] = set()
        """Judge and family of the rows that were there when it was opened, without the failed ones:
        a server that could not be reached has not named its model."""
        self.with_reason: set[str] = set()
        """Ids of rows that have a reason, such as for what is missing in them."""
        self._sound = 0
        self._ending = b""
        self._is_torn = False
        with written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()

    def _read(self) -> None:
        doubled: list[str] = []
        for raw, row in self._rows():
            doubled += [str(row["id"])] if str(row["id"]) in self.done else []
            self._note(row)
            if row["status"] != "failed":
                self.judges.add(_judge(row))
            self._sound += len(raw)
            self._ending = b"" if raw.endswith(b"\n") else b"\n"
        if doubled:
            raise DataError(
                f"{self.path} holds {len(doubled)} ids twice ({', '.join(doubled[:3])}), as two "
                "runs at once leave it; give another output file"
            )

    def _rows(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Lines and rows up to a torn one."""
        with self.path.open("rb+") as file:
            for number, raw in enumerate(file, 1):
                self._is_torn = _is_torn(raw)
                if self._is_torn:
                    return
                yield raw, _journal_row(raw, number, self.path)

    def _note(self, row: Mapping[str, Any]) -> None:
        self.done[str(row["id"])] = sys.intern(str(row["status"]))
        self.fingerprints[str(row["id"])] = str(row.get(FINGERPRINT) or "")
        if row.get("reason") and not str(row["reason"]).startswith(NOTE):
            self.with_reason.add(str(row["id"]))

    def outcome(self, name: str) -> str:
        """Status of a row; a ranking that lacks candidates is ``incomplete``."""
        status = self.done[name]
        return "incomplete" if status == "ranked" and name in self.with_reason else status

    def unanswered(self) -> set[str]:
        """Ids of the rows that failed or are incomplete; an unparsed answer is an answer."""
        return {name for name in self.done if self.outcome(name) in ("failed", "incomplete")}

    def drop(self, names: Collection[str]) -> None:
        """Write the file anew without some rows; the others stay byte for byte.

        Raises:
            DataError: The file cannot be written; it is left as it is.
        """
        if not names:
            return
        self._sound = 0
        with replacing(Path(os.path.realpath(self.path))) as file:
            for raw, row in self._rows():
                if str(row["id"]) not in names:
                    self._sound += file.write(raw if raw.endswith(b"\n") else raw + b"\n")
        self._is_torn, self._ending = False, b""
        self.with_reason -= set(names)
        for name in names:
            del self.done[name], self.fingerprints[name]

    def repair(self) -> None:
        """Cut off a torn last line, and end a complete one; `append` does so by itself.

        Raises:
            DataError: The file cannot be written.
        """
        if not self._is_torn and not self._ending:
            return
        with written(self.path), self.path.open("rb+") as file:
            file.truncate(self._sound)
            file.seek(self._sound)
            file.write(self._ending)
        self._is_torn, self._ending = False, b""

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and push them to the disk before returning.

        Raises:
            DataError: The disk is full or the file cannot be written, or the rows are of another
                judge, such as another model of a server; earlier rows stay.
        """
        rows = list(rows)
        judges = {_judge(row) for row in rows if row["status"] != "failed"}
        if judges and (others := self.judges - judges):
            names = ", ".join(f"{judge} ({family})" for judge, family in sorted(others))
            raise DataError(f"{self.path} holds rows of {names}; give this judge another file")
        self.repair()
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with written(self.path), self.path.open("ab") as file:
            file.write(text.encode(errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        for row in rows:
            self._note(row)


def _judge(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("judge")), str(row.get("family"))


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
