import json

import pytest

from tests.unified_reward.arena.made import example
from unified_reward.arena.journal import VoteJournal, open_votes
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.vote_rows import Vote, read_votes


def vote(name, choice="a", rater="ann", folder=None):
    return Vote(example(name, folder), "alpha", "beta", choice, rater, 1.5, "ba", "2026-11-30")


def keys(votes):
    return [(one.id, one.rater, one.vote) for one in votes]


def test_votes_are_restored_in_order_with_those_taken_back(tmp_path):
    path = tmp_path / "new" / "VOTES.jsonl"
    with open_votes(path) as journal:
        assert journal.restored == ()
        for choice in ("a", None, "tie"):
            journal.append(vote("i0", choice, folder=tmp_path))
        journal.append(vote("i1", "b", "bob", tmp_path))
    with open_votes(path) as journal:
        restored = journal.restored
        assert journal.n_rows == 4
    assert [one[2] for one in keys(restored)] == ["a", None, "tie", "b"]
    assert keys(read_votes(path)) == [("i0", "ann", "tie"), ("i1", "bob", "b")]
    assert restored[0].example.candidates[0].source.resolve() == tmp_path / "i0-a.png"


@pytest.mark.parametrize("cut", [1, 10, -1, -2, -40])
def test_a_kill_while_a_vote_is_written_loses_at_most_this_one(tmp_path, cut):
    """At every byte: `cut` counts from the beginning or the end of the last line."""
    path = tmp_path / "VOTES.jsonl"
    journal = VoteJournal(path)
    journal.append(vote("i0", folder=tmp_path))
    whole = path.read_bytes()
    journal.append(vote("i1", folder=tmp_path))
    row = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + row[:cut])
    is_whole = cut == -1  # the end of the line alone is missing
    again = VoteJournal(path)
    assert [one.id for one in again.restored] == (["i0", "i1"] if is_whole else ["i0"])
    assert path.read_bytes() == whole + row[:cut], "opening changes nothing"
    again.append(vote("i2", folder=tmp_path))
    names = [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]
    assert names == (["i0", "i1", "i2"] if is_whole else ["i0", "i2"])


def test_a_write_that_fails_halfway_leaves_no_broken_line(tmp_path, monkeypatch):
    path = tmp_path / "VOTES.jsonl"
    journal = VoteJournal(path)
    journal.append(vote("i0", folder=tmp_path))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match="cannot be written: No space left"):
            journal.append(vote("a much longer name of an item", folder=tmp_path))
    journal.append(vote("i2", folder=tmp_path))
    assert [one.id for one in VoteJournal(path).restored] == ["i0", "i2"]


def test_a_file_that_somebody_else_changes_is_left_as_it_is(tmp_path):
    path = tmp_path / "VOTES.jsonl"
    journal = VoteJournal(path)
    journal.append(vote("i0", folder=tmp_path))
    whole = path.read_bytes()
    for other in (whole + whole, whole[:-9], b""):
        path.write_bytes(other)
        with pytest.raises(DataError, match="was changed while the arena runs"):
            journal.append(vote("i1", folder=tmp_path))
        assert path.read_bytes() == other
    path.unlink()
    with pytest.raises(DataError, match="cannot be written: No such file"):
        journal.append(vote("i1", folder=tmp_path))
    assert not path.exists(), "the votes before are not in a new file"
    path.write_bytes(whole)
    journal.append(vote("i1", folder=tmp_path))
    assert [one.id for one in VoteJournal(path).restored] == ["i0", "i1"]


@pytest.mark.parametrize(
    "content", ["hello", "hello\n", '{"id": "x"}\n', "[1]\n", '{"id": "x", "status": "kept"}']
)
def test_a_file_of_something_else_is_refused_and_left(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match="line 1"):
        VoteJournal(path)
    assert path.read_text("utf-8") == content


def test_a_second_arena_on_the_same_file_is_refused(tmp_path):
    path = tmp_path / "VOTES.jsonl"
    with (
        open_votes(path),
        pytest.raises(ConfigError, match="is being written by another run"),
        open_votes(path),
    ):
        pass
