"""A judge is calibrated to votes: a new folder whose card has the temperatures and the margin."""

import json

import pytest

from tests.unified_reward.arena.votes import write_votes
from unified_reward.core.extensions import checkpoint_path
from unified_reward.io.rows import read_examples
from unified_reward.io.vote_rows import Vote
from unified_reward.judges.card import Card
from unified_reward.judges.registry import open_judge


CHOICES = {"first": "a", "second": "b", "tie": "tie"}


@pytest.fixture
def votes(cli, files):
    """Votes of two raters on twelve pairs of the microworld; every third of Bob's is wrong."""
    arguments = ("--task", "image_generation", "--n", 24, "--split", "test")
    assert cli("data", "make", "microworld", "made", *arguments)[0] == 0
    rows = (row.content for row in read_examples(files / "made" / "records.jsonl"))
    pairs = [example for example in rows if example.form == "compare"]
    given = []
    for i, example in enumerate(pairs):
        right = CHOICES[example.target.winner]
        wrong = {"a": "b", "b": "tie", "tie": "a"}[right]
        for rater, choice in (("ann", right), ("bob", right if i % 3 else wrong)):
            given.append(Vote(example, "new", "old", choice, rater, 1.0, "ab", "2026"))
    return write_votes(files / "VOTES.jsonl", given)


@pytest.mark.parametrize("judge", ["tiny_judge", "tiny_scalar"])
def test_the_new_folder_opens_as_the_same_judge_with_another_calibration(cli, votes, judge):
    code, out, _ = cli("calibrate", judge, votes, "calibrated", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["n"], report["n_unparsed"], report["n_failed"]) == (12, 0, 0)
    for when in ("before", "after"):
        figures = report[when]["compare"]
        assert [*figures] == ["calibration_error", "brier_score", "three_way_accuracy"]
        assert all(figure["n"] == 12 for figure in figures.values())
    folder, before = votes.parent / "calibrated", checkpoint_path(judge)
    card = Card.read(folder)
    fitted = report["calibration"]
    assert (card.calibration.compare, card.calibration.n) == (fitted["compare"], 12)
    assert card.calibration.score == Card.read(before).calibration.score  # votes are no scores
    assert card.calibration.data == str(votes)
    assert card.family == Card.read(before).family
    assert {path.name for path in folder.iterdir()} == {path.name for path in before.iterdir()}
    sample = next(read_examples(votes.parent / "made" / "records.jsonl")).content.as_samples()
    assert len(open_judge(str(folder)).ask(sample)) == 1


def test_the_figures_are_printed_before_and_after(cli, votes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli("calibrate", "tiny_scalar", votes, "calibrated", "--source", "votes")
    assert code == 0
    assert "12 labels are few" in err
    assert "three_way_accuracy" in out  # not cut
    assert "temperatures" in out


def test_rows_without_a_label_are_named_and_give_exit_1(cli, votes):
    row = json.loads((votes.parent / "made" / "records.jsonl").read_text("utf-8").split("\n")[0])
    path = votes.parent / "made" / "more.jsonl"
    text = (votes.parent / "made" / "records.jsonl").read_text("utf-8")
    path.write_text(text + json.dumps(row | {"id": "bare", "target": None}) + "\n", "utf-8")
    code, out, err = cli("calibrate", "tiny_scalar", path, "calibrated", "--json")
    assert code == 1
    assert json.loads(out)["n_broken_rows"] == 1
    assert "row 25: no winner of two candidates, and no score of one" in err
    assert {*json.loads(out)["before"]} == {"compare", "score"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("scripted:first", "VOTES.jsonl", "out", "--source", "votes"), "no folder of a judge"),
        (("tiny_judge", "VOTES.jsonl", "made", "--source", "votes"), "made is there already"),
        (("tiny_judge", "missing.jsonl", "out"), "missing.jsonl"),
        (("tiny_judge", "VOTES.jsonl", "out", "--source", "records"), "no labelled rows"),
    ],
)
def test_wrong_usage_writes_nothing(cli, votes, arguments, reason):
    code, out, err = cli("calibrate", *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert not (votes.parent / "out").exists()
