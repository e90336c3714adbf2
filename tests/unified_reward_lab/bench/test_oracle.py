"""Exams of policies: figures by hand, and policies whose worth is known."""

import numpy as np
import pytest

from unified_reward.bench.metrics import mean_interval, wilson
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored
from unified_reward_lab.bench.oracle import PolicyExam, examine, gap_closed
from unified_reward_lab.microworld import policy_prompt, render
from unified_reward_lab.microworld.candidate_scenes import keyed_rng, random_scene_with_caption


N, SEED = 6, 11
SPEAKING, DRAWING = Task.IMAGE_UNDERSTANDING, Task.IMAGE_GENERATION
PROMPTS = ("a", "b", "c", "d")
EXAM = PolicyExam((1.0, None, 0.5, 0.0), (0.75, 0.25, None, 0.5), PROMPTS)


class FixedJudge(BaseJudge):
    """Scores every candidate 4 of 1 to 5, which is 0.75; keeps what it was asked."""

    name = "fixed"
    family = "native"

    def __init__(self, verdict=None):
        self.questions = []
        self._verdict = verdict or Scored(Score(4.0, Scale(1, 5)))

    def ask(self, samples, *, orders=2):
        self.questions += samples
        return [self._verdict for _ in samples]


class Says:
    """A policy whose answer is a function of what it is asked and of the seed."""

    def __init__(self, answer):
        self._answer = answer
        self.calls = []

    def sample(self, prompt, context, seeds):
        self.calls.append((prompt, tuple(seeds)))
        return [self._answer(prompt, item) for item in seeds]


def briefs(task, split="test", seed=SEED):
    return [policy_prompt(task, split=split, seed=seed, index=i) for i in range(N)]


def knows(task, split="test", seed=SEED):
    """Answers what is right, in words; prompts that stand there twice take turns."""
    questions = iter(briefs(task, split, seed))
    return Says(lambda _prompt, _seed: next(questions).target.answer)


def draws(split="test"):
    """Draws the scene that the caption was taken from."""
    names = iter([item.id for item in briefs(DRAWING, split)])

    def item(_prompt, seed):
        scene, _ = random_scene_with_caption(keyed_rng(next(names)), split=split, is_video=False)
        return Image(render(scene, seed=seed % 2**32), layout="HWC")

    return Says(item)


def values(report):
    return {name: item["value"] for name, item in report.items()}


def test_the_unreadable_are_worth_nothing_in_oracle_and_left_out_where_readable():
    """1 + 0 + 0.5 + 0 = 1.5 over four, and over the three that could be read; judge 1.5 / 3."""
    report = EXAM.report()
    assert values(report) == pytest.approx(
        {
            "oracle": 1.5 / 4,
            "readable": 3 / 4,
            "oracle_where_readable": 1.5 / 3,
            "perfect": 1 / 4,
            "judge_reward": 1.5 / 3,
        }
    )
    counts = {name: item["n"] for name, item in report.items()}
    assert counts == {
        "oracle": 4,
        "readable": 4,
        "oracle_where_readable": 3,
        "perfect": 4,
        "judge_reward": 3,
    }


def test_means_have_bootstrap_intervals_over_prompts_and_shares_wilsons():
    report = EXAM.report()
    assert report["readable"]["ci95"] == list(wilson(3, 4))
    assert report["perfect"]["ci95"] == list(wilson(1, 4))
    assert report["oracle"]["ci95"] == list(mean_interval([1.0, 0.0, 0.5, 0.0], PROMPTS))
    assert report["judge_reward"]["ci95"] == list(mean_interval([0.75, 0.25, 0.5], "abd"))


def test_a_padded_right_answer_is_not_perfect():
    exam = PolicyExam((0.85, 1.0), (None, None), ("a", "b"))
    assert exam.report()["perfect"]["value"] == 0.5


def test_figures_over_nothing_are_null():
    report = PolicyExam((None, None), (None, None), ("a", "b")).report()
    nothing = {"value": None, "ci95": [None, None], "n": 0}
    assert report["oracle_where_readable"] == report["judge_reward"] == nothing
    assert report["oracle"] == {"value": 0.0, "ci95": [0.0, 0.0], "n": 2}


def test_a_gain_is_the_mean_of_differences_prompt_by_prompt():
    """0 - 1, 1 - 0 (unreadable before), 0 - 0.5 (unreadable after) and 0.25 - 0: -0.25 / 4."""
    after = PolicyExam((0.0, 1.0, None, 0.25), (None,) * 4, PROMPTS)
    gain = after.gain_over(EXAM)
    assert gain.value == pytest.approx(-0.25 / 4)
    assert gain.ci95 == mean_interval([-1.0, 1.0, -0.5, 0.25], PROMPTS)
    assert gain.n == 4
    assert EXAM.gain_over(EXAM).row() == {"value": 0.0, "ci95": [0.0, 0.0], "n": 4}


def test_a_gain_over_another_number_of_prompts_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        EXAM.gain_over(PolicyExam((1.0,), (None,), ("a",)))


@pytest.mark.parametrize(
    ("before", "after", "closed"), [(0.6, 0.7, 0.25), (0.5, 1.0, 1.0), (0.5, 0.25, -0.5)]
)
def test_the_gap_closed_is_a_share_of_what_was_lacking(before, after, closed):
    assert gap_closed(before, after) == pytest.approx(closed)


def test_no_gap_is_closed_where_nothing_was_lacking():
    assert gap_closed(1.0, 0.5) is None


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("task", [SPEAKING, Task.VIDEO_UNDERSTANDING])
def test_a_policy_that_answers_rightly_reaches_1(task, split):
    exam = examine(knows(task, split), task, FixedJudge(), n=N, seed=SEED, split=split)
    assert exam.oracle_scores == (1.0,) * N
    assert exam.prompts == tuple(item.id for item in briefs(task, split))
    assert exam.report()["perfect"]["value"] == 1


def test_a_policy_that_draws_what_was_described_reaches_1():
    exam = examine(draws(), DRAWING, FixedJudge(), n=N, seed=SEED)
    assert exam.oracle_scores == (1.0,) * N


def test_what_is_right_for_one_split_is_not_for_the_other():
    result = [item.prompt for item in briefs(DRAWING, "train")]
    assert not {*result} & {item.prompt for item in briefs(DRAWING, "test")}
    exam = examine(draws("train"), DRAWING, FixedJudge(), n=N, seed=SEED, split="test")
    assert exam.report()["oracle"]["value"] < 0.9


def test_nonsense_is_never_readable_and_has_its_reward_all_the_same():
    exam = examine(Says(lambda *_: "blub"), SPEAKING, FixedJudge(), n=N, seed=SEED)
    assert exam.oracle_scores == (None,) * N
    assert exam.rewards == (0.75,) * N
    assert exam.report()["readable"]["value"] == 0


def test_what_a_safety_checker_withholds_is_not_judged_and_has_neither_worth_nor_reward():
    judge = FixedJudge()
    exam = examine(Says(lambda *_: None), DRAWING, judge, n=N, seed=SEED)
    assert exam.oracle_scores == exam.rewards == (None,) * N
    assert judge.questions == []


@pytest.mark.parametrize(
    "verdict", [Failed("away"), Preferred(1, 0, 0), Scored(None, {"one": Score(1, Scale(1, 5))})]
)
def test_a_judge_that_gives_no_score_gives_no_reward(verdict):
    exam = examine(knows(SPEAKING), SPEAKING, FixedJudge(verdict), n=N, seed=SEED)
    assert exam.rewards == (None,) * N


def test_the_judge_is_shown_the_prompt_its_context_and_the_candidate():
    judge = FixedJudge()
    examine(knows(SPEAKING), SPEAKING, judge, n=N, seed=SEED)
    for sample, questions in zip(judge.questions, briefs(SPEAKING), strict=True):
        assert (sample.id, sample.task, sample.prompt) == (questions.id, SPEAKING, questions.prompt)
        assert sample.candidates == (questions.target.answer,)
        assert np.array_equal(sample.context[0].source, questions.context[0].source)


def test_one_seed_asks_the_same_prompts_with_the_same_noise():
    item, same = (Says(lambda prompt, seed: f"{prompt} {seed}") for _ in range(2))
    exams = [examine(policy, SPEAKING, FixedJudge(), n=N, seed=SEED) for policy in (item, same)]
    assert exams[0] == exams[1]
    assert item.calls == same.calls
    assert len({noise for _, noise in item.calls}) == N
    other = Says(lambda *_: "")
    examine(other, SPEAKING, FixedJudge(), n=N, seed=SEED + 1)
    assert not {noise for _, noise in item.calls} & {noise for _, noise in other.calls}


def test_a_longer_exam_begins_with_the_shorter_one():
    policy = Says(lambda *_: "i can not tell")
    result = []
    short = examine(policy, SPEAKING, FixedJudge(), n=3, seed=SEED)
    long = examine(policy, SPEAKING, FixedJudge(), n=70, seed=SEED, progress=result.append)
    assert long.prompts[:3] == short.prompts
    assert result == [64, 6]
    assert long.oracle_scores == (0.2,) * 70


def test_a_policy_that_draws_in_another_size_is_an_error():
    blank = Says(lambda *_: Image(np.full((32, 32, 3), 200, np.uint8), layout="HWC"))
    with pytest.raises(MediaError, match=r"\(32, 32, 3\)"):
        examine(blank, DRAWING, FixedJudge(), n=1, seed=SEED)
