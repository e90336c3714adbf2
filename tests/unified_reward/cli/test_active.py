"""Pairs are sorted by doubts of judges, resumable, and an arena asks in that order."""

import json
import shutil

import pytest

from tests.unified_reward.arena.votes import vote, write_votes
from unified_reward.arena.items import read_items
from unified_reward.core.samples import Example, Image, Task
from unified_reward.io.rows import example_row
from unified_reward.judges.registry import open_judge


SHARES = {"a": 0.9, "b": 0.55, "c": 0.2, "d": 0.5}


@pytest.fixture
def records(files):
    """Rows of four pairs, and tables of two judges; the other one is undecided about all."""
    rows: list[str] = []
    for name in SHARES:
        pictures = [files / f"{name}-{side}.png" for side in "ab"]
        for picture in pictures:
            shutil.copy(files / "a.png", picture)
        pair = Example(Task.IMAGE_GENERATION, f"a cat {name}", tuple(map(Image, pictures)), id=name)
        rows.append(json.dumps(example_row(pair, files)) + "\n")
    path = files / "records.jsonl"
    path.write_text("".join(rows), "utf-8")
    for table, shares in (("one", SHARES), ("two", dict.fromkeys(SHARES, 0.5))):
        lines = [f"{name},{winner(p)},{p}\n" for name, p in shares.items()]
        (files / f"{table}.csv").write_text("id,winner,probability\n" + "".join(lines), "utf-8")
    return path


def winner(p):
    return "tie" if p == 0.5 else "first" if p > 0.5 else "second"


def names(path):
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


def test_an_arena_asks_in_the_order_of_doubt(cli, records):
    out = records.with_name("next.jsonl")
    code, text, _ = cli("active", records, "--judge", "table:one.csv", "--out", out)
    assert code == 0
    assert "4 of 4 pairs by uncertainty, doubts 1.000 to 0.200" in text
    assert names(out) == ["d", "b", "c", "a"]
    queue = read_items([str(out)])
    assert [item.id for item in queue.items] == ["d", "b", "c", "a"]
    reason = queue.items[1].example.tags["active"]
    assert reason == "uncertainty 0.900: p 0.550 by table:one.csv"


def test_without_a_file_the_order_is_printed_and_nothing_is_kept(cli, records):
    before = {*records.parent.iterdir()}
    code, text, _ = cli("active", records, "--judge", "table:one.csv")
    assert (code, text.split()) == (0, ["1.000", "d", "0.900", "b", "0.400", "c", "0.200", "a"])
    assert {*records.parent.iterdir()} == before


def test_several_judges_are_sorted_by_disagreement(cli, records):
    out = records.with_name("next.jsonl")
    arguments = ("--judge", "table:one.csv", "--judge", "other=table:two.csv", "--out", out)
    code, text, _ = cli("active", records, *arguments, "--n", 2, "--json")
    assert code == 0
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["id"], row["by"]) for row in rows] == [
        ("a", "disagreement"),
        ("c", "disagreement"),
    ]
    assert rows[0]["doubt"] == pytest.approx(0.04)
    assert rows[0]["probabilities"] == {"table:one.csv": 0.9, "other": 0.5}
    assert names(out) == ["a", "c"]


def test_verdicts_are_not_asked_again_and_other_settings_are_refused(cli, records, monkeypatch):
    out = records.with_name("next.jsonl")
    arguments = ("active", records, "--judge", "scripted:first", "--out", out)
    assert cli(*arguments)[0] == 0
    first = out.read_bytes()
    assert b"(orders disagree)" in first
    judge = type(open_judge("scripted:first"))
    monkeypatch.setattr(judge, "ask", lambda *_, **__: pytest.fail("queue again"))
    assert cli(*arguments)[0] == 0
    assert out.read_bytes() == first
    code, _, err = cli(*arguments, "--orders", 1)
    assert code == 2
    assert "orders was 2 and is 1" in err


def test_pairs_with_votes_are_left_out(cli, records):
    votes = write_votes(records.with_name("VOTES.jsonl"), [vote(records.parent, item="b")])
    out = records.with_name("next.jsonl")
    arguments = ("active", records, "--judge", "table:one.csv", "--out", out, "--votes", votes)
    assert cli(*arguments)[0] == 0
    assert names(out) == ["d", "c", "a"]
    more = write_votes(records.with_name("MORE.jsonl"), [vote(records.parent, item="d")])
    assert cli(*arguments, "--votes", more)[0] == 0
    assert names(out) == ["c", "a"]
    write_votes(votes, [vote(records.parent, item=name) for name in SHARES])
    code, _, err = cli(*arguments)
    assert code == 2
    assert "all 4 pairs have votes" in err


def test_votes_on_other_prompts_under_the_ids_of_pairs_are_refused(cli, records):
    votes = write_votes(records.with_name("VOTES.jsonl"), [vote(records.parent, item="b")])
    votes.write_text(votes.read_text("utf-8").replace("a cat b", "a dog"), "utf-8")
    out = records.with_name("next.jsonl")
    arguments = ("active", records, "--judge", "table:one.csv", "--out", out, "--votes", votes)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "1 vote is on other prompts or files" in err
    assert not out.exists()


def test_pairs_that_cannot_be_judged_are_named_and_give_exit_1(cli, records):
    (records.parent / "c-a.png").unlink()
    out = records.with_name("next.jsonl")
    code, _, err = cli("active", records, "--judge", "scripted:first", "--out", out)
    assert code == 1
    assert "scripted:first: no preference on 1 pairs, such as c: " in err
    assert sorted(names(out)) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--out", "x.jsonl"), "no judge is named"),
        (("--judge", "scripted:first", "--out", "x"), "--out is a .jsonl file"),
        (("--judge", "scripted:first", "--out", "records.jsonl"), "is the input"),
        (
            ("--judge", "scripted:first", "--out", "x.jsonl", "--by", "disagreement"),
            "disagreement is of several judges",
        ),
        (("--judge", "scripted:silent", "--out", "x.jsonl"), "no pair has a preference"),
    ],
)
def test_wrong_usage_writes_no_pairs(cli, records, arguments, reason):
    code, out, err = cli("active", records, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert not (records.parent / "x.jsonl").exists()
