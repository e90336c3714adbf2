"""Scorers on the command line: cards, checks, and as the judge of the other commands."""

import json

import PIL.Image
import pytest
from typer.testing import CliRunner

from tests.unified_reward.scorers.test_preparation import waves
from unified_reward.cli import app
from unified_reward.scorers import SYSTEMS, system
from unified_reward.scorers.card import Fact


def invoked(*arguments, code=0):
    result = CliRunner().invoke(app, [str(item) for item in arguments])
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
    message = rows("scorers")
    others = ["checklist-image", "checklist-video", "llava-critic"]
    assert [item["name"] for item in message] == [*SYSTEMS, *others]
    text = invoked("scorers")
    for item in message:
        assert item["system"] in text
        assert item["values"]
        assert item["weights_licence"]
        assert item["verified"] or item["open_questions"]
        assert item["temperature_source"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_card_says_what_a_score_has(name, twin):
    card = system(name).card
    assert card.name == name
    assert bool(card.frames) == any(task.value.startswith("video") for task in card.tasks)
    assert not card.aspects or card.overall != "the model's one value"
    assert card.verified


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


def test_check_is_not_complete_where_the_prompt_is_not_imported(twin, tmp_path, monkeypatch):
    folder = twin("videoreward")[0]
    assert "complete" in invoked("scorers", "check", "videoreward", folder)
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    text = invoked("scorers", "check", "videoreward", folder, code=1)
    assert "complete" not in text
    assert "the prompt VIDEOREWARD is not imported: run unified-reward templates" in text
    (row,) = rows("scorers", "check", "videoreward", folder, code=1)
    assert (len(row["words"]), row["problems"]) == (1, [])


def test_a_scorer_scores_compares_and_ranks_files(twin, pictures):
    judge = f"hpsv2.1:{twin('hpsv2.1')[0]}"
    samples = ("--prompt", "a ball", "--judge", judge)
    scores = [item["value"] for item in rows("score", *pictures, *samples)]
    assert len(set(scores)) == 3
    (ranked,) = rows("rank", *pictures, *samples)
    assert ranked["order"] == sorted(range(3), key=lambda i: -scores[i])
    (message,) = rows("compare", *pictures[:2], *samples)
    assert message["winner"] == ("first" if scores[0] > scores[1] else "second")
    assert (message["judge"], message["family"]) == (judge, "")


@pytest.mark.slow
def test_a_scorer_is_benchmarked_and_audited_like_a_judge(twin, tmp_path):
    judge = f"pickscore:{twin('pickscore')[0]}"
    data = tmp_path / "world"
    options = ("--task", "image_generation", "--n", 12, "--seed", 0, "--split", "test")
    invoked("data", "make", "microworld", data, *options)
    (file,) = data.glob("*.jsonl")
    samples = ("--on", "microworld", "--limit", 6, "--judge", judge)
    report = rows("bench", *samples, "--out", tmp_path / "bench", code=1)[0]
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


def test_check_prints_the_answers_of_a_folder_to_open_questions(tmp_path, monkeypatch):
    fact = Fact("is [bf16] stored?", "dtype BF16", "the [/released] precision")
    monkeypatch.setattr(system("hpsv3"), "facts", lambda folder: [fact])
    text = invoked("scorers", "check", "hpsv3", tmp_path, code=1)
    assert "is [bf16] stored?\n    found    dtype BF16\n    settles  the [/released] pre" in text
    (row,) = rows("scorers", "check", "hpsv3", tmp_path, code=1)
    assert row["facts"] == [fact._asdict()]
