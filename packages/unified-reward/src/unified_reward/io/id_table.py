"""A value for each of millions of ids, in memory that does not grow with their number."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

from unified_reward.core.errors import DataError


_AT_ONCE = 400
"""Rows of a statement: half the time of one each; a statement may have 999 values."""


class IdTable(Mapping[str, str]):
    """A text by id, in the order in which they were added.

    A private, temporary database of SQLite: its cache has 2 MB, and what is beyond lies in a file
    in the folder of temporary files (``SQLITE_TMPDIR``, ``TMPDIR``), which ends with the process.
    Ids are kept whole, so that none is taken for another.
    """

    def __init__(self) -> None:
        """Begin without ids."""
        # One thread at a time uses it, but not always the one that made it.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE rows (id BLOB NOT NULL, value TEXT NOT NULL)")
        self._db.execute("BEGIN")
        self._is_indexed = False
        self._n = 0
        weakref.finalize(self, self._db.close)

    def add(self, items: Iterable[tuple[str, str]]) -> None:
        """Add ids that are new, each with its text; fastest before the first look at any.

        Raises:
            DataError: The temporary file cannot be written.
        """
        rows = iter(items)
        with _file_errors():
            while some := [*islice(rows, _AT_ONCE)]:
                values = [part for name, value in some for part in (_key(name), value)]
                places = ",".join(["(?,?)"] * len(some))
                self._db.execute(f"INSERT INTO rows VALUES {places}", values)  # noqa: S608  no text
                self._n += len(some)

    def remove(self, names: Iterable[str]) -> None:
        """Take out ids."""
        self._index()
        with _file_errors():
            before = self._db.total_changes
            self._db.executemany("DELETE FROM rows WHERE id = ?", ((_key(n),) for n in names))
            self._n -= self._db.total_changes - before

    def doubled(self) -> list[str]:
        """Ids that were added more than once, in order."""
        self._index()
        query = "SELECT id FROM rows GROUP BY id HAVING count(*) > 1 ORDER BY min(rowid)"
        with _file_errors():
            return [_name(key) for (key,) in self._db.execute(query)]

    def __getitem__(self, name: str) -> str:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def is_among_first(self, name: str, n: int) -> bool:
        """True if an id is one of the first n that were added."""
        self._index()
        query = "SELECT 1 FROM rows WHERE id = ? AND rowid <= ?"
        with _file_errors():
            return self._db.execute(query, (_key(name), n)).fetchone() is not None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def _find(self, name: str) -> str | None:
        if not self._is_indexed:
            self._index()
        try:
            query = "SELECT value FROM rows WHERE id = ?"
            found = self._db.execute(query, (_key(name),)).fetchone()
        except sqlite3.Error as error:
            raise _full(error) from error
        return found and found[0]

    def __iter__(self) -> Iterator[str]:
        with _file_errors():
            for (key,) in self._db.execute("SELECT id FROM rows ORDER BY rowid"):
                yield _name(key)

    def __len__(self) -> int:
        return self._n

    def _index(self) -> None:
        if not self._is_indexed:
            with _file_errors():
                self._db.execute("CREATE INDEX ids ON rows (id)")
            self._is_indexed = True


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _full(error) from error


def _full(error: sqlite3.Error) -> DataError:
    return DataError(
        f"the ids of the rows cannot be kept in a temporary file: {error}; set SQLITE_TMPDIR "
        "to a folder with space"
    )


def _key(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _name(key: bytes) -> str:
    return key.decode(errors="surrogatepass")
