"""Rewards of a judge's own verdicts, by numbers derived by hand."""

import pytest

from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.pairs.judge_answers import PairAnswer
from unified_reward.train.verdict_rewards import (
    READABLE,
    Terms,
    VerdictReward,
    overlong_penalty,
    score_answers,
)


THINK = prompts.template("think", Task.IMAGE_GENERATION, "compare")
EXACT = "<think>The first has no star.</think>\n<answer>Image 2 is better</answer>"


def answer(winner, label="first", *, swapped=False, exact=True, n_tokens=10, pair="a"):
    return PairAnswer(pair, swapped, label, "", winner, exact and winner is not None, n_tokens)


def terms(*answers, **options):
    return score_answers(answers, VerdictReward(**options))


def test_a_tie_is_right_where_the_label_is_a_tie_and_wrong_elsewhere():
    mirror = answer("tie", "tie", swapped=True)
    outcomes = [answer(winner, "tie") for winner in ("first", "tie", "second", None)]
    assert [each.accuracy for each in terms(*outcomes, mirror)] == [0, 1, 0, 0, 1]
    decided = [answer("tie", "first"), answer("tie", "second", swapped=True)]
    assert [each.accuracy for each in terms(*decided)] == [0, 0]


def test_consistency_is_the_share_of_swapped_answers_that_name_the_same_candidate():
    """Swapped answers name: second, second, tie, unreadable; second there is first here."""
    swapped = [answer(each, "second", swapped=True) for each in ("second", "second", "tie", None)]
    given = [answer(each) for each in ("first", "second", "tie", None)]
    assert [each.consistency for each in terms(*given, *swapped)] == [
        *(2 / 4, 0, 1 / 4, 0),
        *(1 / 4, 1 / 4, 1 / 4, 0),
    ]


def test_answers_of_another_pair_do_not_count_for_consistency():
    pairs = [
        answer(winner, swapped=swapped, pair=pair)
        for pair, winner in (("a", "first"), ("b", "tie"))
        for swapped in (False, True)
    ]
    assert [each.consistency for each in terms(*pairs)] == [0, 0, 1, 1]


def test_a_pair_asked_in_one_order_is_refused():
    with pytest.raises(ValueError, match="pair 'a' has answers to one order only"):
        terms(answer("first"), answer("first"))


@pytest.mark.parametrize(
    ("text", "winner", "is_exact"),
    [
        (EXACT, "second", True),
        (EXACT.replace("\n", "\n\n") + "\n", "second", True),
        (EXACT.replace("\n", ""), "second", True),
        (EXACT + " Surely.", "second", False),  # passes the published format reward
        ("So: " + EXACT, "second", False),
        (EXACT.replace("</think>\n", "</think>\nHence "), "second", False),
        (EXACT.replace("better", "better."), "second", False),
        (EXACT.replace("The first has no star.", " "), "second", False),
        (EXACT.replace("no star", "no <answer>star"), "second", False),
        (EXACT + EXACT.replace("2", "1"), "first", False),
        ("<think>both</think><answer>Both images are equally good</answer>", "tie", True),
        (EXACT.removesuffix("</answer>"), "second", False),
        ("<think>The first has no star. Image 2 is better", None, False),
        ("Image 2 is better", None, False),
        ("<think>fine</think><answer>a star</answer>", None, False),
        ("", None, False),
    ],
)
def test_the_form_is_that_of_the_family(text, winner, is_exact):
    verdict = THINK.parse(text)
    assert getattr(verdict, "winner", None) == winner
    assert THINK.is_exact(text) is is_exact


def test_format_grades_exact_readable_and_unreadable():
    swapped = answer("tie", "tie", swapped=True)
    graded = terms(answer("first"), answer("first", exact=False), answer(None), swapped)
    assert [each.format for each in graded] == [1, READABLE, 0, 1]


def test_the_overlong_penalty_is_that_of_the_paper():
    """Eq. 13 of DAPO with L_max 20480 and L_cache 4096."""
    lengths = (16384, 16385, 18432, 20480, 30000)
    assert [overlong_penalty(n, 20480, 4096) for n in lengths] == [0, -1 / 4096, -0.5, -1, -1]
    assert [overlong_penalty(n, 100, 0) for n in (100, 101)] == [0, -1]


def test_the_overlong_penalty_is_that_of_trl():
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=40, soft_punish_cache=16)
    lengths = range(60)
    assert [overlong_penalty(n, 40, 16) for n in lengths] == theirs([[0] * n for n in lengths])


def test_the_reward_is_the_weighted_sum_of_its_terms():
    reward = VerdictReward(accuracy=2, format=0.5, consistency=1, length=4)
    assert reward.total(Terms(1, 0.5, 0.25, -0.5)) == 2 + 0.25 + 0.25 - 2


def test_a_wrong_answer_never_pays_like_a_right_one_of_the_same_form():
    """All other answers are wrong in the same way, so the wrong one has all the consistency."""
    swapped = [answer("first", "second", swapped=True)] * 4
    right, wrong, *_ = terms(answer("first"), answer("second"), *swapped)
    assert (right.consistency, wrong.consistency) == (0, 1)
    reward = VerdictReward()
    assert reward.total(right) > reward.total(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": 1.0}, "accuracy must weigh more than consistency, not 1 and 1"),
        ({"format": -1.0}, "weights of rewards are finite and >= 0"),
        ({"length": float("nan")}, "weights of rewards are finite and >= 0"),
        ({"cap": 100, "margin": 101}, "margin is between 0 and the cap"),
    ],
)
def test_rewards_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        VerdictReward(**options)
