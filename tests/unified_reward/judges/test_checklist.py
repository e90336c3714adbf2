"""Checklists over any model: weights and masks by hand, and answers that are no answers."""

import hashlib
import json
import math

import numpy as np
import pytest

import unified_reward as ur
from tests.verdicts import Says
from unified_reward.backends import image_features
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.judges.checklist import CARDS, ChecklistJudge, chance_of_yes
from unified_reward.prompts import packs
from unified_reward.scorers.checklists import Checklist, Question, visionreward


N = {"checklist-image": 30, "checklist-video": 29}


@pytest.fixture(autouse=True)
def _questions(tmp_path, monkeypatch):
    """Made-up questions; the official ones are not part of this repository."""
    rows = []
    for card in CARDS.values():
        name = card.wording[0]
        lines = [f"Is it {i}?" + (' "[[prompt]]"' if i < 3 else " ") for i in range(N[card.name])]
        text = "\n".join(lines)
        digest = hashlib.sha256(text.encode()).hexdigest()
        task = packs.published_prompts()[name].task
        row = {"name": name, "task": task, "form": "score", "text": text, "sha256": digest}
        rows.append(row)
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    (tmp_path / "packs").mkdir()
    pack = {"schema": 1, "wordings": rows}
    (tmp_path / "packs" / "visionreward.json").write_text(json.dumps(pack))


PICTURE = ur.Image(np.full((32, 32, 3), 90, np.uint8), "HWC")
CLIP = ur.Video(np.full((9, 32, 32, 3), 90, np.uint8), "THWC", fps=8.0)


def sample(name, prompt="a cat"):
    (task,) = CARDS[name].tasks
    return ur.Sample(task, prompt, (CLIP if name == "checklist-video" else PICTURE,))


def samples(name, say):
    judge = ChecklistJudge(visionreward(CARDS[name]), Says(say))
    return judge.ask([sample(name)])[0], judge


@pytest.mark.parametrize(
    ("name", "reply", "score"),
    [
        ("checklist-video", "yes", 0.2164542276209317),
        ("checklist-video", "No.", -0.2164542276209317),
        ("checklist-image", "Yes", 4.8912),
        ("checklist-image", "no", -2.1619),  # no body, face or hands: eight questions do not count
    ],
)
def test_one_answer_to_everything_gives_the_ends_of_the_published_range(name, reply, score):
    verdict, _ = samples(name, lambda _: reply)
    assert verdict.score.value == pytest.approx(score, abs=1e-4)
    assert verdict.text == "recalibrated, not the published model"


def test_the_range_of_pictures_is_the_published_one():
    scale = CARDS["checklist-image"].scale
    assert (scale.low, scale.high) == pytest.approx((-2.5369, 4.8912), abs=1e-4)


def test_masked_questions_count_only_where_there_is_something():
    body = ("Is it 22", "Is it 23", "Is it 24", "Is it 28", "Is it 29")

    def say(request):
        text = request.parts[-1]
        return "yes" if text.startswith(("Is it 0?", *(f"{item}?" for item in body))) else "no"

    checklist = visionreward(CARDS["checklist-image"])
    seen, _ = samples("checklist-image", say)
    weights = [item.weight for item in checklist.questions]
    masked = {22, 23, 24, 25, 26, 27, 28, 29}
    plain = -sum(w for i, w in enumerate(weights[:30]) if i not in masked)
    assert seen.score.value == pytest.approx(plain + sum(weights[i] for i in (22, 23, 24, 28, 29)))


def test_a_model_that_never_says_yes_or_no_is_unparsed_and_not_the_lowest_score():
    """Published code gave -0.2164 for two clips of its own page."""
    verdict, _ = samples("checklist-video", lambda _: "There is lighting.")
    assert isinstance(verdict, ur.Unparsed)
    assert verdict.reason == "29 of 29 answers are neither yes nor no"
    one_odd = lambda request: "hm" if "Is it 7?" in request.parts[-1] else "no"  # noqa: E731
    assert samples("checklist-video", one_odd)[0].reason.startswith("1 of 29")


@pytest.mark.parametrize(
    ("text", "chance"),
    [
        ("yes", 1.0),
        ("Yes.", 1.0),
        (" NO, it", 0.0),
        ("nothing", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_first_word_decides(text, chance):
    assert chance_of_yes(Answer(text)) == chance


def test_probabilities_of_both_ways_of_writing_add_up():
    answer = Answer("yes", tuple(map(math.log, (0.3, 0.1, 0.3, 0.1))))
    assert chance_of_yes(answer) == pytest.approx(0.75)


def test_captions_stand_in_their_places_and_line_ends_stay_for_clips():
    reply = []
    samples("checklist-video", lambda request: reply.append(request.parts[-1]) or "no")
    assert reply[0] == 'Is it 0? "a cat"\n'
    assert reply[-1] == "Is it 28? "
    reply.clear()
    samples("checklist-image", lambda request: reply.append(request.parts[-1]) or "no")
    assert reply[4] == "Is it 4?"
    assert "a cat" in reply[-1]
    assert len(reply) == 31


def test_two_candidates_compare_and_a_broken_one_fails_alone(tmp_path):
    checklist = Checklist(CARDS["checklist-image"], [Question("Is it bright?", 2.0)])
    judge = ChecklistJudge(
        checklist, Says(lambda r: "yes" if np.asarray(r.parts[0]).mean() > 100 else "no")
    )
    bright = ur.Image(np.full((8, 8, 3), 200, np.uint8), "HWC")
    result = judge.compare("x", images=[PICTURE, bright])
    assert result.p_second == pytest.approx(1 / (1 + math.exp(-4)))
    broken = ur.Sample(ur.Task.IMAGE_GENERATION, "x", (ur.Image(tmp_path / "none.png"),))
    wrong = sample("checklist-video")
    failed, refused, fine = judge.ask([broken, wrong, sample("checklist-image")])
    assert "none.png" in failed.error
    assert "scores image_generation, not video_generation" in refused.error
    assert isinstance(fine, ur.Scored)


def test_a_picture_is_encoded_once_for_all_questions(monkeypatch):
    judge = ur.open_judge("checklist-image:tiny_base")
    seen = []
    look = image_features.ImageEncoder.run_tower

    def counted(self, inputs):
        seen.append(len(inputs["image_grid_thw"]))
        return look(self, inputs)

    monkeypatch.setattr(image_features.ImageEncoder, "run_tower", counted)
    scored = judge.score("a red star", image=PICTURE)
    assert len(scored.aspects) == 31
    assert sum(seen) == 1


def test_without_its_questions_or_over_a_judge_that_does_not_speak_it_is_refused(
    tmp_path, monkeypatch
):
    with pytest.raises(ConfigError, match="asks a generative judge, not tiny_scalar"):
        ur.open_judge("checklist-video:tiny_scalar")
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="PATH on your clone of THUDM/VisionReward"):
        ur.open_judge("checklist-video:tiny_base")


def test_options_are_those_of_the_judge_of_a_checklist():
    judge = ur.open_judge("checklist-image:tiny_base", device="cpu", batch_size=3)
    assert judge.model.batch_size == 3
    served = "checklist-image:http://localhost:9/v1"
    assert ur.open_judge(served, model="m", api_key="k").name.startswith("checklist-image:m at")
    for reference, option in (("tiny_base", {"model": "m"}), (served[16:], {"device": "cpu"})):
        with pytest.raises(ConfigError, match=f"{next(iter(option))}=.* is for .*{reference} does"):
            ur.open_judge(f"checklist-image:{reference}", **option)
