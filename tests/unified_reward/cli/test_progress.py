"""Totals of bars over files of rows."""

import json

import pytest

from unified_reward.cli import progress
from unified_reward.cli.progress import rows_in


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich takes a terminal


def test_rows_of_small_files_of_lines_are_counted(files, monkeypatch):
    path = files / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"b": "\\u2028"}\n{"c"')
    assert rows_in(path) == 3
    assert rows_in(files / "a.png") is None
    (files / "a.png").rename(files / "picture.jsonl")
    assert rows_in(files / "picture.jsonl") is rows_in(files / "none.jsonl") is None
    monkeypatch.setattr(progress, "_COUNTED_BYTES", 8)
    assert rows_in(path) is None


def test_nothing_is_counted_without_a_bar(files, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR")
    (files / "rows.jsonl").write_text("{}\n")
    assert rows_in(files / "rows.jsonl") is None


@pytest.mark.parametrize("command", [("show",), ("data", "check")])
def test_the_bar_of_a_file_has_its_total(cli, files, command):
    row = {
        "task": "image_generation",
        "prompt": "p",
        "candidates": [{"image": "a.png"}, {"image": "b.png"}],
    }
    lines = [json.dumps({"id": str(i), "target": {"winner": "first"}, **row}) for i in range(3)]
    (files / "rows.jsonl").write_text("\n".join(lines))
    code, _, err = cli(*command, "rows.jsonl")
    assert code == 0
    assert "3/3" in err
