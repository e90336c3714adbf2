"""One opener of text: marks, encodings, line ends, quotes; and nobody opens text without it."""

import ast
import codecs
import csv
import gzip
import io
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.io.rows import parse_row, read_examples
from unified_reward.io.text import (
    parse_json,
    read_json,
    read_line,
    read_lines,
    read_table,
    read_text,
)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = "a\0b \u2028 \x85 \x0b \x1c \r \n \r\n \ufeff \" ' , ; \t é 雪 \U0001f600"
MARKS = {
    "utf-8": [b"", codecs.BOM_UTF8, codecs.BOM_UTF8 * 2],
    "utf-16-le": [codecs.BOM_UTF16_LE],
    "utf-16-be": [codecs.BOM_UTF16_BE],
    "utf-32-le": [codecs.BOM_UTF32_LE],
    "utf-32-be": [codecs.BOM_UTF32_BE],
}
MARKED = [(mark, encoding) for encoding, marks in MARKS.items() for mark in marks]
ENDS = ["\n", "\r\n", "\r"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def written(folder, content, name="a.txt"):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("mark", "encoding"), MARKED)
@pytest.mark.parametrize("end", ENDS)
def test_a_text_of_any_mark_and_line_end_is_the_same(folder, mark, encoding, end):
    text = end.join(["é", "", "a\u2028b\x85", "雪"])
    path = written(folder, mark + text.encode(encoding))
    assert read_text(path) == "é\n\na\u2028b\x85\n雪"


@given(st.lists(TEXT, min_size=1, max_size=5), st.sampled_from(MARKED), st.data())
def test_cells_of_any_text_come_back_from_a_table(folder, cells, marked, data):
    names = [f"c{i}" for i in range(len(cells))]
    file = io.StringIO()
    end = data.draw(st.sampled_from(ENDS))
    table = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    table.writerows([names, cells])
    mark, encoding = marked
    path = written(folder, mark + file.getvalue().encode(encoding), "a.csv")
    assert list(read_table(path)) == [(2, dict(zip(names, cells, strict=True)))]


@given(st.lists(TEXT, max_size=4), st.sampled_from(MARKS["utf-8"]), st.data(), st.booleans())
def test_rows_of_any_text_mark_and_line_ends_are_the_same(folder, prompts, mark, data, is_ended):
    rows = [
        {"id": str(i), "task": "image_generation", "prompt": prompt, "source": ODD}
        for i, prompt in enumerate(prompts)
    ]
    ends = [data.draw(st.sampled_from([*ENDS, "\n\n", "\r \r\n"])) for _ in rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    whole = "".join(line + end for line, end in zip(lines, ends, strict=True))
    path = written(folder, mark + (whole if is_ended else whole.rstrip()).encode(), "a.jsonl")
    found = list(read_examples(path))
    assert [row.content.prompt for row in found] == prompts
    assert all(row.content.source == ODD for row in found)
    for row in found:
        assert parse_row(read_line(path, row.start), folder) == row.content


@pytest.mark.parametrize(("mark", "encoding"), [pair for pair in MARKED if pair[1] != "utf-8"])
def test_rows_in_another_encoding_are_refused_with_the_command_that_helps(folder, mark, encoding):
    path = written(folder, mark + b"{}")
    with pytest.raises(DataError, match=f"is {encoding.upper()}, .*iconv -f {encoding.upper()}"):
        list(read_lines(path))


@pytest.mark.parametrize("read", [read_text, read_json, lambda path: list(read_lines(path))])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"{}", mtime=0), "compressed by gzip; unpack it first"),
        (b"PK\x03\x04 and more", "a zip archive, as a spreadsheet is"),
        (b"PAR1 and more", "is a Parquet file; convert it first: unified-reward data convert"),
        (b"(\xb5/\xfd\x00", "compressed by zstd"),
        (b"\xfd7zXZ\x00", "compressed by xz"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image, not a file of text; to score it"),
        (b"\0\0\0\x20ftypisom\0\0", r"is a video \(MP4\), not a file of text"),
        (b"%PDF-1.7", "no text but a PDF"),
    ],
)
def test_what_is_no_text_is_refused_by_its_kind(folder, read, content, reason):
    with pytest.raises(DataError, match=reason):
        read(written(folder, content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\nb\xe9\n", "line 2 is not UTF-8: .*save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0\n\0b", "line 2 is not UTF-16-LE"),
        ("a\nb".encode("utf-16-le"), "line 1 holds a NUL, as UTF-16 without a byte order mark"),
        (b"a\rb\0", "line 2 holds a NUL"),
    ],
)
def test_a_text_that_cannot_be_decoded_is_refused_with_the_line(folder, content, reason):
    with pytest.raises(DataError, match=reason):
        read_text(written(folder, content))


def test_what_cannot_be_opened_is_one_line(folder):
    for path, reason in [
        (folder, "Is a directory"),
        (folder / "none", "No such file"),
        (folder / "a\0b", "a path has no NUL"),
        (folder / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(DataError, match=reason):
            read_text(path)
    assert read_text(written(folder, b"")) == ""
    assert list(read_lines(written(folder, codecs.BOM_UTF8))) == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('a,b\n1,"x\ny,z"\n2,w\n', [(2, {"a": "1", "b": "x\ny,z"}), (4, {"a": "2", "b": "w"})]),
        ('a,b\n1,5" pipe\n2,w\n', [(2, {"a": "1", "b": '5" pipe'}), (3, {"a": "2", "b": "w"})]),
    ],
)
def test_cells_are_read_as_they_are_meant(folder, text, rows):
    assert list(read_table(written(folder, text.encode(), "a.csv"))) == rows


@pytest.mark.parametrize("length", [131_072, 131_073, 1_000_000])
def test_a_cell_of_any_length_is_a_cell_and_the_limit_of_others_stays(folder, length):
    inner = "injected,evil\n" * 3
    cell = "x" * length + "\n" + inner
    path = written(folder, f'a,b\n1,"{cell}"\n2,good\n'.encode(), "a.csv")
    before = csv.field_size_limit()
    rows = read_table(path)
    assert next(rows) == (2, {"a": "1", "b": cell})
    assert csv.field_size_limit() == before
    assert next(rows) == (7, {"a": "2", "b": "good"})


@pytest.mark.parametrize(
    "torn", ['1,"a"b', '1,"a"b,"x\ny,evil\n"', '1,"a"b,"' + "x\ny,evil\n" * 99 + '"']
)
def test_a_torn_quote_costs_its_row_and_no_line_inside_becomes_one(folder, torn):
    path = written(folder, f"a,b\n0,first\n{torn}\n2,last\n".encode(), "a.csv")
    first, (line, reason), last = read_table(path)
    assert first == (2, {"a": "0", "b": "first"})
    assert (line, last[1]) == (3, {"a": "2", "b": "last"})
    assert reason.startswith("no CSV in lines 3 to")


def test_a_quote_that_is_never_closed_ends_the_table_and_says_so(folder):
    path = written(folder, b'a,b\n0,first\n1,"torn\n2,evil\n3,evil\n', "a.csv")
    first, (line, reason) = read_table(path)
    assert first[1]["b"] == "first"
    assert (line, reason.partition(":")[0]) == (3, "the file ends inside row 3")


def test_tables_are_read_in_threads_at_once(folder):
    cell = "x" * 200_000
    path = written(folder, ("a\n" + f"{cell}\n" * 20).encode(), "a.csv")
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.append(len(list(read_table(path)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [20] * 4


@given(st.recursive(TEXT | st.booleans() | st.none() | st.integers() | st.floats(-9, 9), st.lists))
def test_json_comes_back_as_it_was_written(value):
    for is_ascii in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=is_ascii).encode()) == value


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' stands twice"),
        (b"[NaN]", "NaN is not a number"),
        (b"[1e400]", "1e400 is not a finite number"),
        (b"1" * 301, "a number of 301 digits"),
        (b'["\\ud83d"]', "half character"),
        (b'["\\udc80 and more"]', "half character"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"[" * 101 + b"]" * 101, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"a\0b"', "Invalid control character"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_others_would_read_otherwise_is_refused(raw, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(raw)


def test_pairs_of_half_characters_are_characters():
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


ROOT = Path(__file__).parents[3]
FILES = sorted(ROOT.glob("packages/*/src/**/*.py"))
BYTES = {
    "io/text.py": "the opener itself",
    "io/journal.py": "cuts off what a kill left",
    "io/checkpoints.py": "cuts off what a kill left, and hashes",
    "arena/journal.py": "cuts off what a kill left",
    "io/fingerprints.py": "hashes",
    "data/pack.py": "looks for the end of a tar",
    "recipes/stage.py": "hashes of weights",
    "scorers/open_facts.py": "hashes",
    "checkpoints/tensor_keys.py": "looks for Git LFS pointers",
    "media/files.py": "media",
    "media/images.py": "media",
}
"""Files that open others as bytes, and why."""
PARSED = {
    "io/text.py": {"csv.reader"},
    "io/config.py": {"yaml.load"},
    # Looks for code as leniently as transformers reads: what we refuse, it may take.
    "checkpoints/pretrained.py": {"json.loads"},
    # Writes a document back byte for byte.
    "experiments/page.py": {"document.read_bytes().decode"},
    # Files of the kernel, which have no size.
    "doctor/devices.py": {"NVIDIA.read_text"},
    "doctor/machine.py": {"file.read_text"},
    # Metadata of the installed distribution.
    "core/install.py": {"distribution(DISTRIBUTION).read_text"},
}
PARSERS = {"load", "loads", "safe_load", "load_all", "validate_json", "model_validate_json"}


def openings(tree):
    """Calls by which text is opened or parsed straight from a file, and files opened as bytes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        inner = ast.unparse(ast.Tuple(node.args, ast.Load()))
        is_library = name.startswith(("PIL.", "av.", "tarfile.", "zipfile."))
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        mode = next((mode for mode in modes if isinstance(mode, str) and len(mode) < 4), None)
        is_opener = name in ("read_text", "text.read_text")
        if last == "open" and not is_library and mode is not None:
            if "r" in mode or "+" in mode:
                yield "bytes" if "b" in mode else name
        elif (
            name in ("open", "io.open", "codecs.open")
            or name in ("csv.reader", "csv.DictReader", "yaml.safe_load", "yaml.load", "json.load")
            or (last == "read_text" and not is_opener)
            or (last in PARSERS and (".read" in inner or "open(" in inner))
            or (last == "decode" and ".read_bytes()" in name)
        ):
            yield name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_text_is_opened_by_the_one_opener(file):
    place = "/".join(file.parts[-2:])
    found = set(openings(ast.parse(file.read_text("utf-8"))))
    allowed = {"bytes"} if place in BYTES else set()
    assert found <= allowed | PARSED.get(place, set())


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "path.open('r')",
        "path.open('rb')",
        "path.open(mode, 'r+')",
        "path.read_text()",
        "json.load(file)",
        "json.loads(path.read_bytes())",
        "kind.validate_json(file.read_bytes())",
        "path.read_bytes().decode()",
        "csv.DictReader(lines)",
        "yaml.safe_load(text)",
    ],
)
def test_another_way_to_open_text_would_be_seen(code):
    assert list(openings(ast.parse(code)))
