"""EditScore: two questions put together from pieces, and the published score of both answers."""

import hashlib
import math

import numpy as np
import pytest

from tests.verdicts import Says, words
from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Example, Image, Sample, Target, Task
from unified_reward.core.verdicts import Failed, Scale, Score, Scored, Unparsed
from unified_reward.judges.card import Card, build_request
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.prompts import packs
from unified_reward.prompts.families.edit import POINTS
from unified_reward.train.judge import JudgeTurns


IE = Task.IMAGE_EDITING
PIECES = {
    "ES-CONTEXT": 'Reply {"reasoning": "", "score": []}, 10 words.\n',
    "ES-EDIT": "Two pictures, 10 rules.\n",
    "ES-SC": "\nFrom 0 to 10.\nDo: <instruction>\n",
    "ES-PQ": "One picture.\nFrom 0 to 10 (\n    10 is best).\n",
}
SAMPLE = Sample(IE, "paint 10 ⟪first⟫ <instruction>", (Image("new.png"),), (Image("old.png"),))
SUCCESS, QUALITY = '{"reasoning": "a", "score": [20, 15]}', '{"reasoning": "b", "score": [10, 25]}'


@pytest.fixture(scope="module", autouse=True)
def pack(tmp_path_factory):
    """Pieces in made-up words, in a file as published."""
    folder = tmp_path_factory.mktemp("editscore")
    file = folder / "clone" / "editscore" / "vie_prompts.py"
    file.parent.mkdir(parents=True)
    names = {"ES-CONTEXT": "_context", "ES-EDIT": "_edit", "ES-SC": "_sc", "ES-PQ": "_pq"}
    code = "\n".join(f'{names[name]} = """{text}"""\n' for name, text in PIECES.items())
    file.write_text(code, "utf-8")
    expected = [
        packs.published_prompts()[name]._replace(
            length=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()[:12]
        )
        for name, text in PIECES.items()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(folder / "home"))
        assert packs.import_pack(folder / "clone", expected=expected).pack.name == "editscore.json"
        yield


@pytest.fixture
def template():
    return prompts.template("editscore", IE, "score")


def read(template, success, quality):
    return template.decode_all([Answer(success), Answer(quality)])


def test_the_pieces_are_joined_by_lines_and_scaled_to_25_before_the_instruction_is_filled_in():
    first, second = prompts.template("editscore-qwen3", IE, "score").requests(
        SAMPLE, lambda medium: [medium]
    )
    context = 'Reply {"reasoning": "", "score": []}, 10 words.\n\n'
    edit = "Two pictures, 10 rules.\n\n\nFrom 0 to 25.\nDo: paint 10 ⟪first⟫ <instruction>\n"
    assert first.parts == (Image("old.png"), Image("new.png"), context + edit)
    quality = "One picture.\nFrom 0 to 25 (\n    25 is best).\n"
    assert second.parts == (Image("new.png"), context + quality)
    assert (first.max_new_tokens, first.choices, first.places) == (512, (), ())


def test_judges_on_qwen2_5_get_a_label_before_each_image(template):
    first, second = template.requests(SAMPLE, lambda medium: [medium])
    assert first.parts[:4] == ("<img1>: ", Image("old.png"), "<img2>: ", Image("new.png"))
    assert second.parts[:2] == ("<img1>: ", Image("new.png"))


def test_the_score_is_the_geometric_mean_of_the_worse_of_each_two(template):
    verdict = read(template, SUCCESS, QUALITY)
    assert verdict.score.value == pytest.approx(math.sqrt(15 / 2.5 * 10 / 2.5))
    assert (verdict.score.scale.low, verdict.score.scale.high) == (0, 10)
    assert {name: one.value for name, one in verdict.aspects.items()} == {
        "success": 20.0,
        "preservation": 15.0,
        "naturalness": 10.0,
        "artifacts": 25.0,
    }
    assert read(template, SUCCESS.replace("20", "0"), QUALITY).score.value == 0.0
    best = '{"reasoning": "", "score": [25, 25]}'
    assert read(template, best, best).score.value == 10.0


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ("It is fine.", "no list of scores in the answer"),
        ('{"reasoning": "", "score": []}', "no list of scores"),
        ('{"score": [10]}', "1 points in the answer, for naturalness, artifacts"),
        ('{"score": [10, 26]}', "26 is outside the scale 0 to 25"),
        ('{"score": [-1, 5]}', "-1 is outside the scale 0 to 25"),
        ("", "no list of scores"),
    ],
)
def test_an_answer_that_cannot_be_read_is_no_half_and_no_guess(quality, reason, template):
    """Published code takes 12.5 of 25, or a random number."""
    verdict = read(template, SUCCESS, quality)
    assert isinstance(verdict, Unparsed)
    assert reason in verdict.reason
    assert SUCCESS in verdict.text


def test_an_answer_alone_is_not_taken_for_both(template):
    assert template.parse(SUCCESS).reason == "1 answers, for 2 questions"


def test_a_rule_between_reasons_and_points_does_not_end_an_answer(template):
    """Markdown has the line ``---`` that separates the two answers in the text of a verdict."""
    ruled = f"First, the edit.\n\n---\n\n{SUCCESS}"
    assert read(template, ruled, QUALITY).score.value == pytest.approx(math.sqrt(15 * 10) / 2.5)
    answers = [Answer(SUCCESS, votes=(ruled,)), Answer(QUALITY, votes=(f"-\n\n---\n\n{QUALITY}",))]
    assert template.decode_all(answers).score.sigma == pytest.approx(0.0, abs=1e-9)


def test_passes_are_averaged_after_each_was_scored(template):
    """The passes score 10 and sqrt(4 x 25) / 2.5 = 4."""
    best = '{"score": [25, 25]}'
    answers = [Answer(best, votes=('{"score": [4, 4]}',)), Answer(best, votes=(best,))]
    verdict = template.decode_all(answers)
    assert verdict.score.value == pytest.approx(7.0)
    assert verdict.score.sigma == pytest.approx(3.0)
    assert verdict.aspects["success"].value == pytest.approx(14.5)
    assert verdict.aspects["artifacts"].value == 25.0


def test_a_pass_that_cannot_be_read_is_left_out(template):
    answers = [Answer(SUCCESS, votes=("none", SUCCESS)), Answer("none", votes=(QUALITY, QUALITY))]
    assert template.decode_all(answers).score.value == pytest.approx(math.sqrt(15 * 10) / 2.5)


@pytest.mark.parametrize("points", [(0.0, 25.0, 3.5, 12.0), (25.0, 25.0, 25.0, 25.0)])
def test_parsing_both_answers_gives_the_verdict_back(points, template):
    names = [aspect.name for aspect in template.aspects]
    aspects = {name: Score(value, POINTS) for name, value in zip(names, points, strict=True)}
    text = template.answer(Scored(None, aspects), rationale="short --- and plain")
    verdict = template.parse(text)
    assert verdict.aspects == aspects
    worst = min(points[:2]) * min(points[2:])
    assert verdict.score.value == pytest.approx(math.sqrt(worst) / 2.5)
    with pytest.raises(ConfigError, match="states naturalness, artifacts, but the target has succ"):
        template.answer(Scored(None, {name: aspects[name] for name in names[:2]}))


def picture(value):
    return Image(np.full((8, 8, 3), value, np.uint8), "HWC")


def judge_of(answer):
    return GenerativeJudge(Says(answer), Card("editscore"))


def test_a_judge_asks_twice_about_each_edit_and_keeps_their_order():
    judge = judge_of(lambda request: SUCCESS if "Two pictures" in words(request) else QUALITY)
    samples = [Sample(IE, f"edit {i}", (picture(i),), (picture(9),)) for i in range(3)]
    verdicts = judge.ask(samples)
    assert [one.score.value for one in verdicts] == pytest.approx([math.sqrt(24)] * 3)
    assert len(judge.model.requests) == 6
    first, second = judge.model.requests[2:4]
    assert ("edit 1" in words(first), len(first.images), len(second.images)) == (True, 2, 1)


def test_if_one_of_the_two_fails_so_does_the_edit_and_no_other():
    def answer(request):
        if len(request.images) == 2:
            return Failed("server down") if "edit 1" in words(request) else SUCCESS
        return QUALITY

    samples = [Sample(IE, f"edit {i}", (picture(i),), (picture(9),)) for i in range(2)]
    good, failed = judge_of(answer).ask(samples)
    assert good.score.value == pytest.approx(math.sqrt(24))
    assert failed == Failed("server down")


def test_edits_are_not_compared_and_not_trained_on():
    with pytest.raises(ConfigError, match="'editscore' has no compare template for image_editing"):
        prompts.template("editscore", IE, "compare")
    with pytest.raises(ConfigError, match="editscore asks 2 questions about an edit; train in"):
        build_request(Sample(IE, "x", (picture(1),), (picture(2),)), Card("editscore"), {})


@pytest.mark.parametrize("score", [None, 8.0])
def test_training_in_a_family_of_two_questions_is_refused_as_such(score):
    sample = Sample(IE, "x", (picture(1),), (picture(2),), id="a")
    names = ("success", "preservation", "naturalness", "artifacts")
    target = Target(score, Scale(0, 25), dict.fromkeys(names, 20.0))
    with pytest.raises(ConfigError, match="editscore asks 2 questions about an edit; train in"):
        JudgeTurns([Example.of(sample, target)], Card("editscore"))[0]


def test_a_piece_that_was_not_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    file = tmp_path / "editscore" / "vie_prompts.py"
    file.parent.mkdir()
    file.write_text(f'_sc = """{PIECES["ES-SC"]}"""\n', "utf-8")
    text = PIECES["ES-SC"]
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    row = packs.published_prompts()["ES-SC"]._replace(length=len(text), sha256=digest)
    packs.import_pack(tmp_path, expected=[row])
    with pytest.raises(
        ConfigError, match="'editscore' needs the official wordings, and ES-CONTEXT"
    ):
        prompts.template("editscore", IE, "score")
