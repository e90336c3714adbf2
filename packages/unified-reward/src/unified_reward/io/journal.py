"""Append-only journal that makes runs resumable: rows with ids, one a line.

Knows ids and states of rows, not their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Container, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from unified_reward.core.errors import DataError
from unified_reward.io.atomic import replacing, written
from unified_reward.io.checkpoints import VERSION, Checkpoint, Checkpoints, hashed
from unified_reward.io.id_table import IdTable
from unified_reward.io.lock import locked
from unified_reward.io.text import LinePlace
from unified_reward.io.verdict_rows import NOTE


_ROW_BEGINS = b'{"id": '
FINGERPRINT = "fingerprint"
"""Last key of a row: fingerprint of the input that it was made from."""
UNANSWERED = ("failed", "incomplete")
"""Outcomes of rows that can be asked again; an unparsed answer is an answer."""
_OWN_ROW = re.compile(
    r'^\{"id": "([^"\\\n]+)", "status": "(?!ranked)(\w+)", .*"fingerprint": "(\w+)"\}$',
    re.ASCII | re.MULTILINE,
)
"""A row as it is written here, whose outcome is its status."""
_BLOCK = 2**20
_PUSH_S = 1.0
"""Seconds between two pushes to the disk, which only a machine that loses power needs: the rows of
a process that is killed are with the system."""
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@contextmanager
def open_journal(path: Path) -> Generator[Journal]:
    """Open a journal that no other run writes to until the block ends; see `Journal`.

    Raises:
        ConfigError: Another run is writing to it.
        DataError: See `Journal`; or the last rows cannot be pushed to the disk.
    """
    with locked(path):
        journal = Journal(path)
        try:
            yield journal
        finally:
            journal.close()


class Done(Mapping[str, str]):
    """Status of rows by id, in the order of their file."""

    def __init__(self, rows: IdTable) -> None:
        """View the rows of a journal."""
        self._rows = rows

    def __getitem__(self, name: str) -> str:
        outcome, _ = _parts(self._rows[name])
        return "ranked" if outcome == "incomplete" else outcome

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _Earlier(Container[str]):
    """Ids of the first rows of a journal."""

    def __init__(self, rows: IdTable, n: int) -> None:
        self._rows = rows
        self.n = n

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._rows.is_among_first(name, self.n)


class Journal:
    """Append-only JSONL file of rows with ids, from which a stopped run resumes.

    Opening it changes nothing. A torn last line, left by a kill, is cut off before the first row is
    appended. Every row begins with its id, which distinguishes a torn row from the end of another
    kind of file. Memory does not grow with the number of rows.
    """

    def __init__(self, path: Path) -> None:
        """Read a journal, or start one; `open_journal` also locks it.

        Raises:
            DataError: The file holds other content than rows with id and status, or an id twice,
                or cannot be opened; it is left as it is.
        """
        self.path = path
        self._table = IdTable()
        self.done: Mapping[str, str] = Done(self._table)
        """Status by id."""
        self.outcomes: Counter[str] = Counter()
        """Number of rows by their outcome."""
        self.judges: set[tuple[str, str]] = set()
        """Judge and family of the rows that were there when it was opened, without the failed ones:
        a server that could not be reached has not named its model."""
        self.checkpoints = Checkpoints(path)
        self.checkpoint: Checkpoint | None = None
        """Checkpoint whose rows the file begins with; None where there is none."""
        self._appended_by: set[tuple[str, str]] = set()
        self._unmarked: Counter[str] = Counter()
        self._sound = 0
        self._digest: Any = hashlib.sha256()
        self._ending = b""
        self._is_torn = False
        self._pusher = ThreadPoolExecutor(1, "push to disk")
        self._push: Future[None] | None = None
        self._is_pushed, self._pushed_at = True, 0.0
        with written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()

    def _read(self) -> None:
        with self.path.open("rb+") as file:
            self._find_checkpoint(file)
            self._table.add(self._entries(file))
        if doubled := self._table.doubled():
            raise DataError(
                f"{self.path} holds {len(doubled)} ids twice ({', '.join(doubled[:3])}), as two "
                "runs at once leave it; give another output file"
            )

    def _find_checkpoint(self, file: IO[bytes]) -> None:
        """Find out whether the file begins as it did at the last checkpoint."""
        last = self.checkpoints.last
        if last is None:
            return
        digest = hashed(file, last.output_bytes)
        if digest is not None and digest.hexdigest() == last.output_sha256:
            self.checkpoint, self._digest = last, digest
            self.judges = {(judge, family) for judge, family in last.judges}
        file.seek(0)

    def _entries(self, file: IO[bytes]) -> Iterator[tuple[str, str]]:
        """Ids and states of the rows up to a torn one; counts them."""
        known = self.checkpoint.output_bytes if self.checkpoint else 0
        number = 0
        while lines := file.readlines(_BLOCK):
            block = b"".join(lines)
            own = _own_rows(block) if self._sound + len(block) <= known else []
            if len(own) == len(lines):
                self.outcomes.update(outcome for _, outcome, _ in own)
                self._sound += len(block)
                number += len(lines)
                yield from ((name, f"{outcome}\n{mark}") for name, outcome, mark in own)
                continue
            for raw in lines:
                number += 1
                self._is_torn = _is_torn(raw)
                if self._is_torn:
                    return
                yield self._entry(raw, number, is_new=self._sound >= known)

    def _entry(self, raw: bytes, number: int, *, is_new: bool) -> tuple[str, str]:
        """Count a row."""
        row = _journal_row(raw, number, self.path)
        entry = _entry(row)
        self._count(entry)
        if row["status"] != "failed":
            self.judges.add(_judge(row))
        if is_new:
            self._digest.update(raw)
        self._sound += len(raw)
        self._ending = b"" if raw.endswith(b"\n") else b"\n"
        return entry

    def _count(self, entry: tuple[str, str]) -> None:
        outcome, fingerprint = _parts(entry[1])
        self.outcomes[outcome] += 1
        if not fingerprint:
            self._unmarked[outcome] += 1

    @property
    def before_checkpoint(self) -> _Earlier:
        """Ids of the rows before the checkpoint."""
        last = self.checkpoint
        return _Earlier(self._table, sum(last.outcomes.values()) if last else 0)

    def outcome(self, name: str) -> str:
        """Status of a row; a ranking that lacks candidates is ``incomplete``."""
        return _parts(self._table[name])[0]

    def fingerprint(self, name: str) -> str:
        """Fingerprint of the input of a row; empty where it has none."""
        return _parts(self._table[name])[1]

    def are_all_marked(self, but: Collection[str] = ()) -> bool:
        """True if all rows have a fingerprint, but those of some outcomes."""
        return not any(n for outcome, n in self._unmarked.items() if outcome not in but)

    def unanswered(self) -> set[str]:
        """Ids of the rows that failed or are incomplete; an unparsed answer is an answer."""
        if not any(self.outcomes[outcome] for outcome in UNANSWERED):
            return set()
        return {name for name, state in self._table.items() if _parts(state)[0] in UNANSWERED}

    def drop(self, names: Collection[str]) -> None:
        """Write the file anew without some rows; the others stay byte for byte.

        Raises:
            DataError: The file cannot be written; it is left as it is.
        """
        if not names:
            return
        self.close()
        self.checkpoints.forget(for_good=True)
        self.checkpoint = None
        sound, digest = 0, hashlib.sha256()
        with replacing(Path(os.path.realpath(self.path))) as file, self.path.open("rb") as old:
            for number, raw in enumerate(old, 1):
                if _is_torn(raw):
                    break
                if str(_journal_row(raw, number, self.path)["id"]) not in names:
                    line = raw if raw.endswith(b"\n") else raw + b"\n"
                    sound += file.write(line)
                    digest.update(line)
        self._sound, self._digest, self._is_torn, self._ending = sound, digest, False, b""
        for name in names:
            outcome, fingerprint = _parts(self._table[name])
            self.outcomes[outcome] -= 1
            self._unmarked[outcome] -= not fingerprint
        self._table.remove(names)

    def forget_checkpoint(self) -> None:
        """Leave nothing unchecked, since inputs or media have changed, or may have."""
        self.checkpoint = None
        self.checkpoints.forget()

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
            self._sound += file.write(self._ending)
        self._digest.update(self._ending)
        self._is_torn, self._ending = False, b""

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, which a kill leaves.

        They are pushed to the disk while the next are made, at most once a second, and when the
        journal is closed.

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
        content = "".join(f"{_dumps(row)}\n" for row in rows).encode(errors="replace")
        with written(self.path), self.path.open("ab") as file:
            file.write(content)
        self._is_pushed = False
        if time.monotonic() - self._pushed_at > _PUSH_S:
            self._start_push()
        self._appended_by |= judges
        self._sound += len(content)
        self._digest.update(content)
        entries = [_entry(row) for row in rows]
        for entry in entries:
            self._count(entry)
        self._table.add(entries)

    def _start_push(self) -> None:
        self._finish_push()
        self._push = self._pusher.submit(_push, self.path)
        self._is_pushed, self._pushed_at = True, time.monotonic()

    def _finish_push(self) -> None:
        push, self._push = self._push, None
        if push:
            with written(self.path):
                push.result()

    def close(self) -> None:
        """Wait until all rows are on the disk.

        Raises:
            DataError: They cannot be pushed to it.
        """
        if not self._is_pushed:
            self._start_push()
        self._finish_push()

    def add_checkpoint(self, about: list[str], place: LinePlace) -> None:
        """Note that the rows of an input up to a place are all in the file, and no others.

        Args:
            about: See `Checkpoint`.
            place: Place in the input.
        """
        names = sorted([judge, family] for judge, family in self.judges | self._appended_by)
        self.checkpoints.add(
            Checkpoint(
                version=VERSION,
                about=about,
                input_bytes=place.n_bytes,
                input_lines=place.n_lines,
                input_sha256=place.digest.hexdigest(),
                output_bytes=self._sound,
                output_sha256=self._digest.hexdigest(),
                outcomes={outcome: n for outcome, n in self.outcomes.items() if n},
                judges=names,
            )
        )


def _push(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _own_rows(block: bytes) -> list[tuple[str, str, str]]:
    """Ids, outcomes and fingerprints of rows as they are written here; other lines are left out."""
    try:
        return _OWN_ROW.findall(block.decode(errors="surrogatepass"))
    except UnicodeDecodeError:
        return []


def _parts(state: str) -> tuple[str, str]:
    outcome, _, fingerprint = state.partition("\n")
    return outcome, fingerprint


def _entry(row: Mapping[str, Any]) -> tuple[str, str]:
    """Id of a row, and its outcome and fingerprint."""
    outcome, reason = str(row["status"]), row.get("reason")
    if outcome == "ranked" and reason and not str(reason).startswith(NOTE):
        outcome = "incomplete"
    return str(row["id"]), f"{outcome}\n{row.get(FINGERPRINT) or ''}"


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
