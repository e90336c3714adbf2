"""Rows of published files: the same in every format, whole or cut off, in little memory."""

import csv
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.core.verdicts import Failed
from unified_reward.data.sources import streams
from unified_reward.data.sources.streams import raw_rows


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=6)
THREE = [{"id": str(i), "text": "ünï" * i} for i in range(3)]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["id", "text"], *(r.values() for r in rows)])
    return out.getvalue()


def values(path):
    """Rows, and for a row that failed its line and the reason."""
    return [
        (raw.line, raw.value.error) if isinstance(raw.value, Failed) else raw.value
        for raw in raw_rows(path)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@settings(max_examples=50)
@given(ROWS, st.sampled_from([1, 2, 7, 1 << 16]), st.booleans(), st.sampled_from([None, 1]))
def test_an_array_and_json_lines_give_what_was_written(folder, rows, chunk, ascii_only, indent):
    array = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_CHUNK_BYTES", max(chunk, 4))
        assert values(write(folder, "a.json", array)) == rows
    assert values(write(folder, "a.jsonl", lines(rows))) == rows


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_format_gives_the_same_rows(folder, bom):
    contents = {
        "a.json": json.dumps(THREE),
        "lines.json": lines(THREE),
        "a.JSONL": lines(THREE).rstrip("\n"),
        "a.csv": table(THREE),
        "a.tsv": table(THREE, "\t"),
    }
    for name, content in contents.items():
        assert values(write(folder, name, bom + content.encode())) == THREE
    pa.parquet.write_table(pa.Table.from_pylist(THREE), folder / "a.parquet", row_group_size=2)
    assert values(folder / "a.parquet") == THREE


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_file_cut_anywhere_gives_its_whole_rows_and_then_says_where_it_ends(folder, name):
    whole = (json.dumps(THREE, ensure_ascii=False) if name == "a.json" else lines(THREE)).encode()
    for cut in range(1, len(whole)):
        *rows, last = values(write(folder, name, whole[:cut]))
        if isinstance(last, dict):
            assert name == "a.jsonl"
            rows.append(last)
        else:
            assert last == (len(rows) + 1, f"the file ends inside row {len(rows) + 1}")
        assert rows == THREE[: len(rows)]


def test_a_table_cut_inside_quotes_says_where_it_ends(folder):
    whole, (line, reason) = values(write(folder, "a.csv", 'id,text\n1,a\n2,"b'))
    assert (whole, line) == ({"id": "1", "text": "a"}, 3)
    assert reason.startswith("the file ends inside row 3: a quote is not closed")


def test_a_line_that_cannot_be_decoded_fails_alone(folder):
    bad = [
        b'{"id": 1}',
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[1]",
        b"",
        b'{"a": "\\ud800"}',
        b'{"a":',
        b"{}",
    ]
    rows = values(write(folder, "a.jsonl", b"\n".join(bad) + b"\n"))
    assert rows[0] == {"id": 1}
    assert rows[-1] == {}
    result = [
        (2, "UTF-8"),
        (3, "NaN is not a number"),
        (4, "not a list"),
        (6, "half character"),
        (7, "Invalid JSON"),
    ]
    for (line, reason), (at, part) in zip(rows[1:-1], result, strict=True):
        assert line == at
        assert part in reason


def test_a_row_of_a_table_that_cannot_be_decoded_fails_alone(folder):
    rows = values(write(folder, "a.csv", b'id,text\n1,caf\xe9\n2\n\n\n3,"a"b\n4,"two\nlines"\n'))
    assert rows == [
        (2, "the row is not UTF-8"),
        (3, "1 columns where the header names 2"),
        (6, "no CSV in lines 6 to 6: ',' expected after '\"'"),
        {"id": "4", "text": "two\nlines"},
    ]


@pytest.mark.parametrize("middle", [b"{'a': 1}", b'{"a" 1}', b"", b'{"a": "\n"}'])
def test_an_array_is_read_up_to_where_it_is_broken(folder, middle):
    path = write(folder, "a.json", b'[{"a": 1}, 2, ' + middle + b', {"a": 4}]')
    assert values(path) == [
        {"a": 1},
        (2, "a row is an object with names, not a int"),
        (3, "row 3 is not JSON, and no row after it can be read"),
    ]


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800]"}', "half character"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"1" * 5000, "5000 digits"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_no_other_program_would_read_alike_costs_its_row_alone(folder, name, middle, reason):
    parts = [b'{"a": 1}', middle, b'{"a": 3}']
    content = b"[" + b",".join(parts) + b"]" if name == "a.json" else b"\n".join(parts) + b"\n"
    first, (line, found), last = values(write(folder, name, content))
    assert (first, line, last) == ({"a": 1}, 2, {"a": 3})
    assert reason in found


@pytest.mark.parametrize("behind", [b"[1]", b" {}", b"]"])
def test_an_array_behind_which_something_stands_is_not_read_as_whole(folder, behind):
    rows = values(write(folder, "a.json", b'[{"a": 1}]' + behind))
    assert rows == [{"a": 1}, (2, "row 2 is not JSON, and no row after it can be read")]


def test_an_array_under_a_key_is_found_at_any_place_of_its_object(folder):
    whole = {"meta": {"videos": [1]}, "x": ["videos"], "videos": THREE, "y": [{}]}
    path = write(folder, "a.json", json.dumps(whole, indent=1))
    assert [row.value for row in raw_rows(path, "videos")] == THREE
    with pytest.raises(DataError, match="no array under the key 'clips'"):
        list(raw_rows(path, "clips"))


def test_a_parquet_string_that_is_no_utf8_fails_alone(folder):
    raw = pa.array([b"a", b"\xff", b"c"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pa.parquet.write_table(pa.table({"text": text}), folder / "a.parquet")
    assert values(folder / "a.parquet") == [
        {"text": "a"},
        (2, "the row is not UTF-8"),
        {"text": "c"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "result"),
    [
        ("a.json", '{\n  "data": [{"a": 1}]\n}', "neither an array nor an object a line"),
        ("a.json", "", "neither an array nor an object a line"),
        ("a.txt", "[]", r"rows are read from \.json, .*not '\.txt'"),
        ("a.csv", "", "different column names"),
        ("a.csv", "id,id\n1,2\n", "different column names"),
        ("a.csv", b"id,caf\xe9\n1,2\n", "column names: it is not UTF-8"),
        ("a.parquet", b"PAR1 and no more", "not a complete Parquet file"),
    ],
)
def test_a_file_without_rows_is_told(folder, name, content, result):
    with pytest.raises(DataError, match=result):
        values(write(folder, name, content))


def test_a_file_that_is_not_there_is_told(folder):
    with pytest.raises(DataError, match=r"none\.json cannot be read: No such file"):
        values(folder / "none.json")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_large_file_is_read_in_little_memory_also_where_it_is_cut(folder, name):
    rows = [{"id": str(i), "text": "x" * 10_000} for i in range(1_000)]
    content = {"a.json": json.dumps(rows), "a.jsonl": lines(rows), "a.csv": table(rows)}[name]
    path = write(folder, name, content[: -len(rows[-1]["text"]) // 2])
    del rows, content
    tracemalloc.start()
    counted = sum(1 for _ in raw_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted == 1_000
    assert path.stat().st_size > 9_000_000
    assert peak < 1_000_000
