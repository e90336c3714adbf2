"""Ids in a temporary database: every id is itself, in order, whatever its characters."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.io.id_table import IdTable


NAMES = st.lists(st.text(st.characters(), max_size=4), unique=True, max_size=30)


@given(NAMES, st.data())
def test_it_answers_as_a_dict_does(names, data):
    """Halves of characters, NULs and empty ids included."""
    table, plain = IdTable(), {name: repr(i) for i, name in enumerate(names)}
    n = data.draw(st.integers(0, len(names)))
    table.add([*plain.items()][:n])
    assert [name in table for name in names] == [i < n for i in range(len(names))]
    assert [table.is_among_first(name, n) for name in names] == [i < n for i in range(len(names))]
    table.add([*plain.items()][n:])
    assert (table, list(table), len(table)) == (plain, names, len(names))
    gone = names[::3]
    table.remove(gone)
    assert list(table.items()) == [(k, v) for k, v in plain.items() if k not in gone]
    assert len(table) == len(names) - len(gone)
    with pytest.raises(KeyError):
        table["longer than any"]


def test_doubled_ids_are_found_in_their_order():
    table = IdTable()
    table.add([(name, "") for name in "badbca"])
    assert table.doubled() == ["b", "a"]


def test_a_temporary_file_that_cannot_be_written_is_told():
    table = IdTable()
    table._db.execute("PRAGMA max_page_count=3")
    with pytest.raises(DataError, match="database or disk is full; set SQLITE_TMPDIR"):
        table.add([("x" * 10_000, "")])
    table._db.close()
    for broken in (lambda: table["a"], lambda: list(table), lambda: table.remove(["a"])):
        with pytest.raises((DataError, sqlite3.Error)):
            broken()
