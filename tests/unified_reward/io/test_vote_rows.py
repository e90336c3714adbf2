"""Votes: rows and back, the last of a rater counts, a torn line is left out."""

import json
from dataclasses import replace

import pytest

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Task
from unified_reward.io.vote_rows import Vote, read_all_votes, read_votes


def vote(folder, choice="a", rater="ann", name="p1"):
    images = (Image(folder / "a.png"), Image(folder / "b.png"))
    example = Example(Task.IMAGE_GENERATION, "a cat", images, id=name, tags={"prompt_id": "1"})
    return Vote(
        example, "new", "old", choice, rater, 2.5, "ba", "2026-11-30T12:00:00Z", {"style": (4, 2)}
    )


def write(path, votes):
    rows = [json.dumps(one.row(path.parent)) + "\n" for one in votes]
    path.write_text("".join(rows), "utf-8")


def test_a_vote_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "votes.jsonl"
    votes = [vote(tmp_path), replace(vote(tmp_path, "tie", "bob"), gold="tie", repeats="p0")]
    write(path, votes)
    assert read_votes(path) == votes


def test_the_last_vote_of_a_rater_counts_and_a_withdrawn_one_does_not(tmp_path):
    path = tmp_path / "votes.jsonl"
    given = [("a", "ann"), ("b", "bob"), (None, "ann"), ("tie", "bob"), ("b", "cy")]
    write(path, [vote(tmp_path, choice, rater) for choice, rater in given])
    assert [(one.rater, one.vote) for one in read_votes(path)] == [("bob", "tie"), ("cy", "b")]
    assert len(list(read_all_votes(path))) == 5


def test_a_torn_last_line_is_left_out_and_any_other_names_itself(tmp_path):
    path = tmp_path / "votes.jsonl"
    write(path, [vote(tmp_path)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert len(read_votes(path)) == 1
    path.write_bytes(whole[:40] + b"\n" + whole)
    with pytest.raises(DataError, match="line 1"):
        read_votes(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vote": "c"}, "vote"),
        ({"aspects": {"style": [0, 6]}}, "aspects.style.0"),
        ({"seconds": -1}, "seconds"),
        ({"rater": None}, "rater"),
        ({"task": "music"}, "task"),
    ],
)
def test_a_row_that_is_no_vote_is_named_with_its_fault(tmp_path, change, reason):
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(vote(tmp_path).row(tmp_path) | change) + "\n", "utf-8")
    with pytest.raises(DataError, match=f"line 1.*{reason}"):
        read_votes(path)
