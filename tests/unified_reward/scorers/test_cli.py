"""Scorers on the command line: cards, checks, and as the judge of the other commands."""

import json

import PIL.Image
import pytest
from typer.testing import CliRunner

from tests.unified_reward.scorers.test_preparation import waves
from unified_reward.cli import app
from unified_reward.scorers import SYSTEMS, system


def invoked(*arguments, code=0):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def rows(*arguments, code=0):
    return [json.loads(line) for line in invoked(*arguments, "--json", code=code).splitlines()]


@pytest.fixture
def pictures(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        PIL.Image.fromarray(waves(30 + 11 * i, 40)).save(file)
    return files


def test_the_cards_are_printed_for_people_and_for_machines():
    told = rows("scorers")
    others = ["checklist-image", "checklist-video", "llava-critic"]
    assert [one["name"] for one in told] == [*SYSTEMS, *others]
    text = invoked("scorers")
    for one in told:
        assert one["system"] in text
        assert one["values"]
        assert one["weights_licence"]
        assert one["verified"] or one["open_questions"]
        assert one["temperature_source"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_card_says_what_a_score_has(name, twin):
    card = system(name).card
    assert card.name == name
    assert bool(card.frames) == (card.task.value == "video_generation")
    assert not card.aspects or card.overall != "the model's one value"
    assert card.state == "twin" or card.open_questions


def test_check_says_what_a_folder_holds_and_what_it_lacks(twin, tmp_path):
    folder = twin("videoreward")[0]
    text = invoked("scorers", "check", "videoreward", folder)
    assert "checkpoint-11352/model.pth" in text
    assert "44 renamed, 14 merged, 1 ignored (the head that speaks)" in text
    (row,) = rows("scorers", "check", "pickscore", tmp_path, code=1)
    assert row["files"] == []
    assert row["keys"] is None
    assert len(row["problems"]) == 3
    assert "no weights" in invoked("scorers", "check", "pickscore", tmp_path, code=1)


def test_a_scorer_scores_compares_and_ranks_files(twin, pictures):
    judge = f"hpsv2.1:{twin('hpsv2.1')[0]}"
    asked = ("--prompt", "a ball", "--judge", judge)
    scores = [one["value"] for one in rows("score", *pictures, *asked)]
    assert len(set(scores)) == 3
    (ranked,) = rows("rank", *pictures, *asked)
    assert ranked["order"] == sorted(range(3), key=lambda i: -scores[i])
    (told,) = rows("compare", *pictures[:2], *asked)
    assert told["winner"] == ("first" if scores[0] > scores[1] else "second")
    assert (told["judge"], told["family"]) == (judge, "")


def test_a_scorer_is_benchmarked_and_audited_like_a_judge(twin, tmp_path):
    judge = f"pickscore:{twin('pickscore')[0]}"
    data = tmp_path / "world"
    how = ("--task", "image_generation", "--n", 12, "--seed", 0, "--split", "test")
    invoked("data", "make", "microworld", data, *how)
    (file,) = data.glob("*.jsonl")
    asked = ("--on", "microworld", "--limit", 6, "--judge", judge)
    report = rows("bench", *asked, "--out", tmp_path / "bench", code=1)[0]
    assert {"image_generation.score", "image_generation.compare"} <= report["groups"].keys()
    assert report["n_failed"] == report["n"] - 12, "other tasks fail, and are counted"
    report = rows("audit", "--data", file, "--judge", judge, "--out", tmp_path / "audit")[0]
    assert report["judge"] == judge


def test_a_wrong_folder_ends_the_command_with_what_is_wrong(tmp_path, pictures, twin):
    from unified_reward.core.errors import ModelError

    judge = f"hpsv3:{twin('hpsv2')[0]}"
    result = CliRunner().invoke(app, ["score", str(pictures[0]), "--prompt", "a", "--judge", judge])
    assert isinstance(result.exception, ModelError)
    assert "weights as of hpsv2" in str(result.exception)
