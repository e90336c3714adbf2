"""VideoScore2: three aspects behind reasoning, each digit weighed by its share of the five."""

import hashlib
import math

import numpy as np
import pytest

from tests.verdicts import Says
from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Example, Sample, Target, Task, Video
from unified_reward.core.verdicts import Scale, Score, Scored, Unparsed
from unified_reward.judges.card import Calibration, Card
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.prompts import packs
from unified_reward.prompts.families.videoscore2 import WEIGHTED, weighted_digit
from unified_reward.train.judge import JudgeTurns


VG = Task.VIDEO_GENERATION
NAMES = ("visual quality", "text-to-video alignment", "physical/common-sense consistency")
WORDING = "\n    Three things of a clip.\n    It shows: $t2v_prompt\n    "
PLAIN = (
    "<think>visual quality: 1, one would say.</think>\nvisual quality: 4; \n"
    "text-to-video alignment: 3,\nphysical/common-sense consistency: 2"
)
NUMBERED = (
    "<think>…</think>\n(1) visual quality \u2013 clarity, smoothness, artifacts: 4\n"
    "(2) text-to-video alignment \u2013 fidelity to the prompt: 3\n"
    "(3) physical/common-sense consistency \u2013 naturalness and physics plausibility: 2"
)


@pytest.fixture(scope="module", autouse=True)
def pack(tmp_path_factory):
    """A made-up wording in a script as published."""
    folder = tmp_path_factory.mktemp("videoscore2")
    code = f'def main(p):\n    t = Template("""{WORDING}""")\n    q = t.substitute(t2v_prompt=p)\n'
    (folder / "vs2_inference.py").write_text(code, "utf-8")
    digest = hashlib.sha256(WORDING.encode()).hexdigest()[:12]
    row = packs.published_prompts()["VIDEOSCORE2"]._replace(length=len(WORDING), sha256=digest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(folder / "home"))
        packs.import_pack(folder, expected=[row])
        yield


@pytest.fixture
def template():
    return prompts.template("videoscore2", VG, "score")


def values(verdict):
    return [verdict.aspects[name].value for name in NAMES]


def logprobs(*shares):
    return tuple(math.log(share) for share in shares)


def test_the_caption_stands_in_the_published_text_behind_the_frames(template):
    sample = Sample(VG, "a $t2v_prompt cube", (Video("v.mp4"),))
    request = template.request(sample, lambda medium: [medium])
    assert request.parts[0] == Video("v.mp4")
    text = "\n    Three things of a clip.\n    It shows: a $t2v_prompt cube\n    "
    assert request.parts[1:] == (text,)
    assert [place.choices for place in request.places] == [("1", "2", "3", "4", "5")] * 3
    assert (request.choices, request.wants_logprobs, request.max_new_tokens) == ((), True, 1024)


REVISED = "visual quality: 1 at first sight.\n" + PLAIN.rpartition(">\n")[2]


@pytest.mark.parametrize("text", [PLAIN, NUMBERED, REVISED, PLAIN.replace("visual", "**Visual**")])
def test_the_digits_behind_the_reasoning_are_read(text, template):
    verdict = template.parse(text)
    assert values(verdict) == [4, 3, 2]
    assert verdict.score.value == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PLAIN.replace("alignment: 3", "alignment: good"), "no text-to-video alignment in the ans"),
        (PLAIN.replace("quality: 4", "quality: 6"), "score 6 is outside the scale 1 to 5"),
        (PLAIN.replace("quality: 4", "quality: 4-5"), "a range, 4"),
        (PLAIN.replace("quality: 4", "quality: 4/10"), "score out of 10, but the scale is 1 to 5"),
        (PLAIN.partition("</think>")[0], "the reasoning is cut off before a verdict"),
        ("", "the answer is empty"),
    ],
)
def test_what_lacks_an_aspect_is_unparsed_as_a_whole(text, reason, template):
    for verdict in (template.parse(text), template.decode(Answer(text))):
        assert isinstance(verdict, Unparsed)
        assert reason in verdict.reason


def test_a_digit_counts_by_its_share_of_the_five(template):
    """The released formula: digit times its share; 4 x 0.6, 3 x 1.0, 2 x 0.5."""
    rows = (
        logprobs(0.05, 0.05, 0.2, 0.6, 0.1),
        logprobs(1e-9, 1e-9, 1.0, 1e-9, 1e-9),
        logprobs(0.02, 0.04, 0.01, 0.005, 0.005),
    )
    verdict = template.decode(Answer(PLAIN, place_logprobs=rows))
    assert values(verdict) == pytest.approx([2.4, 3.0, 1.0])
    assert verdict.score.value == pytest.approx(6.4 / 3)
    assert verdict.score.scale == WEIGHTED


def test_a_place_without_probabilities_keeps_its_digit(template):
    rows = (None, logprobs(0.1, 0.1, 0.5, 0.2, 0.1), None)
    assert values(template.decode(Answer(PLAIN, place_logprobs=rows))) == pytest.approx([4, 1.5, 2])
    assert values(template.decode(Answer(PLAIN, place_logprobs=(None,) * 3))) == [4, 3, 2]


def test_the_least_and_the_most_a_digit_can_count():
    assert weighted_digit((0.0,) * 5) == pytest.approx(0.2)
    assert weighted_digit((-99.0, -99.0, -99.0, -99.0, 0.0)) == pytest.approx(5.0)


def test_without_probabilities_further_answers_are_averaged(template):
    votes = (PLAIN.replace("quality: 4", "quality: 2"), "none")
    answer = Answer(PLAIN, votes=votes, place_logprobs=(None,) * 3)
    assert values(template.decode(answer)) == pytest.approx([3, 3, 2])


def test_parsing_an_answer_gives_the_verdict_back(template):
    aspects = {name: Score(value, WEIGHTED) for name, value in zip(NAMES, (5, 1, 3), strict=True)}
    text = template.answer(Scored(None, aspects), rationale="visual quality: 2")
    verdict = template.parse(text)
    assert verdict.aspects == aspects
    assert text.endswith(f"\n{NAMES[0]}: 5;\n{NAMES[1]}: 1,\n{NAMES[2]}: 3")
    del aspects[NAMES[1]]
    with pytest.raises(ConfigError, match="states text-to-video alignment, but the target has vis"):
        template.answer(Scored(None, aspects))


def test_a_weighted_digit_below_1_is_no_answer(template):
    """A judge's own verdict may have one, and its answer would be unparsed."""
    aspects = {name: Score(0.6, WEIGHTED) for name in NAMES}
    with pytest.raises(ConfigError, match=r"states aspects from 1 to 5, not 0\.6"):
        template.answer(Scored(None, aspects))


def test_a_judge_is_trained_on_the_aspects_alone():
    """Labels of VideoFeedback2 are three digits; no overall score is written."""
    sample = Sample(VG, "x", (Video(np.zeros((2, 8, 8, 3), np.uint8), "THWC"),), id="a")
    target = Target(aspects=dict(zip(NAMES, (4, 3, 2), strict=True)), scale=Scale(1, 5))
    turns = JudgeTurns([Example.of(sample, target)], Card("videoscore2"))
    assert turns[0].answer == PLAIN.replace("visual quality: 1, one would say.", "").replace(
        "; \n", ";\n"
    )
    assert len(turns[0].request.images) == 8


def test_a_temperature_flattens_the_shares_at_each_place():
    """Shares 0.8 and 0.2 at temperature 2 are as 2 to 1."""
    row = logprobs(1e-30, 1e-30, 0.2, 0.8, 1e-30)
    answer = Answer(PLAIN, place_logprobs=(row,) * 3)
    judge = GenerativeJudge(Says(lambda _: answer), Card("videoscore2"))
    sample = Sample(VG, "x", (Video(np.zeros((2, 8, 8, 3), np.uint8), "THWC"),))
    for temperature, share in ((1.0, 0.8), (2.0, 2 / 3)):
        replies = judge.query([sample])
        (verdict,) = judge.decode([sample], replies, Calibration(score=temperature))
        assert values(verdict) == pytest.approx([4 * share] * 3)
    assert len(judge.model.requests[0].images) == 8
