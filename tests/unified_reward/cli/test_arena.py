"""Wrong usage of the arena: one line, and nothing is written."""

import json

import pytest

from tests.unified_reward.arena.made import example
from unified_reward.io.rows import example_row


@pytest.fixture
def records(files):
    row = example_row(example("i0", files), files)
    (files / "records.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    return files / "records.jsonl"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("nowhere", "--out", "v.jsonl"), "nowhere"),
        (("records.jsonl", "--out", "records.jsonl"), "records.jsonl line 1 is no vote"),
        (("records.jsonl", "--out", "v.jsonl", "--rater", "a b"), "a rater's name is"),
        (("records.jsonl", "--out", "v.jsonl", "--aspect", "x", "--aspect", "x"), "distinct names"),
        (("records.jsonl", "--out", "v.jsonl", "--gold", "none.jsonl"), "none.jsonl"),
        (("a.png", "--out", "v.jsonl"), "a.png"),
    ],
)
def test_wrong_usage_is_one_line(cli, records, args, reason):
    before = records.read_bytes()
    code, out, err = cli("arena", *args)
    assert (code, out) == (2, "")
    assert reason in err
    assert "Traceback" not in err
    assert records.read_bytes() == before
    assert not (records.parent / "v.jsonl").exists()
