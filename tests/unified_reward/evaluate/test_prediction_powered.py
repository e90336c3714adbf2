"""Few votes and many verdicts: the closed form, its coverage, and its limits."""

import math

import numpy as np
import pytest

from unified_reward.bench.metrics import wilson
from unified_reward.evaluate.estimates import share_estimate
from unified_reward.evaluate.prediction_powered import prediction_powered


def sources(y, f):
    """Votes of the first prompts, verdicts of all."""
    votes = {f"p{k}": float(value) for k, value in enumerate(y)}
    return votes, {f"p{k}": float(value) for k, value in enumerate(f)}


def closed_form(y, f, weight):
    """Value and standard error after arXiv:2301.09633, with a weight as in arXiv:2311.01453."""
    n = len(y)
    own, others = f[:n], f[n:]
    value = weight * sum(others) / len(others)
    value += sum(a - weight * b for a, b in zip(y, own, strict=True)) / n
    error = np.var([a - weight * b for a, b in zip(y, own, strict=True)], ddof=1) / n
    return value, math.sqrt(error + weight**2 * np.var(others, ddof=1) / len(others))


def judged(rng, n, n_others, rate=0.7, accuracy=0.9):
    """Votes, and a judge that agrees with people on a share of the prompts."""
    y = (rng.random(n + n_others) < rate).astype(float)
    f = np.where(rng.random(n + n_others) < accuracy, y, 1 - y) * 0.8 + 0.1
    return y[:n], f


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_value_and_error_are_the_closed_form(weight):
    y, f = judged(np.random.default_rng(0), 60, 500)
    result = prediction_powered(*sources(y, f), weight)
    value, error = closed_form(y, f, weight)
    assert (result.weight, result.votes_alone.n, result.judge_alone.n) == (weight, 60, 560)
    assert result.estimate.value == pytest.approx(value)
    assert result.standard_error == pytest.approx(error)


def test_the_interval_is_the_normal_one_where_votes_are_many():
    y, f = judged(np.random.default_rng(0), 2000, 20_000)
    result = prediction_powered(*sources(y, f), 1.0)
    value, error = closed_form(y, f, 1.0)
    expected = (value - 1.96 * error, value + 1.96 * error)
    assert result.estimate.ci95 == pytest.approx(expected, abs=0.03 * error)


def test_the_weight_is_that_of_least_variance():
    """Compared with all weights in steps of a thousandth, by the closed form."""
    y, f = judged(np.random.default_rng(1), 2000, 4000, accuracy=0.8)
    weights = np.linspace(0, 1, 1001)
    best = weights[np.argmin([closed_form(y, f, weight)[1] for weight in weights])]
    result = prediction_powered(*sources(y, f))
    assert result.weight == pytest.approx(best, abs=0.02)
    n, others = len(y), len(f) - len(y)
    by_hand = np.cov(y, f[:n])[0, 1] / ((1 + n / others) * np.var(f, ddof=1))
    assert result.weight == pytest.approx(by_hand)


def test_by_hand():
    """Weight 1: mean of others 1/2, plus the mean of 0, 1/2 and 1/4; variance 1/48 + 1/48."""
    votes = {"p1": 1.0, "p2": 0.5, "p3": 0.25}
    judge = {"p1": 1.0, "p2": 0.0, "p3": 0.0, "p4": 0.25, "p5": 0.75, "p6": 0.5}
    result = prediction_powered(votes, judge, 1.0)
    assert result.estimate.value == pytest.approx(0.75)
    assert result.standard_error == pytest.approx(math.sqrt(1 / 48 + 1 / 48))
    assert (result.estimate.n, result.n_unjudged) == (3, 0)


@pytest.mark.parametrize(
    ("accuracy", "share"), [(0.95, 0.65), (0.5, 1.03)], ids=["good judge", "useless judge"]
)
def test_intervals_hold_the_win_rate_among_people_and_a_judge_never_costs_much(accuracy, share):
    """At least 92 % of 500 repeats, three standard errors below; widths against votes alone."""
    rng = np.random.default_rng(7)
    hits, widths, alone, weights = 0, 0.0, 0.0, []
    for _ in range(500):
        result = prediction_powered(*sources(*judged(rng, 50, 500, accuracy=accuracy)))
        low, high = result.estimate.ci95
        hits += low <= 0.7 <= high
        widths += high - low
        alone += np.ptp(result.votes_alone.ci95)
        weights.append(result.weight)
    assert hits >= 460
    assert widths / alone <= share
    assert np.mean(weights) > 0.9 if accuracy > 0.9 else np.mean(weights) < 0.1


def test_a_judge_that_contradicts_people_or_never_varies_is_ignored():
    y = np.array([1, 1, 0, 1, 0, 1, 1, 1.0])
    for f in ([*(1 - y), 0.2, 0.9, 0.4], [0.5] * 11):
        result = prediction_powered(*sources(y, f))
        assert result.weight == 0
        assert result.estimate.value == 0.75
        assert result.estimate.ci95 == pytest.approx(result.votes_alone.ci95)


def test_a_biased_judge_is_corrected():
    """It always gives 0.3 more than people: the correction is exact, and votes alone are wide."""
    y = np.tile([0.1, 0.3, 0.5, 0.7], 10)
    f = np.concatenate([y, np.tile([0.1, 0.3, 0.5, 0.7], 100)]) + 0.3
    result = prediction_powered(*sources(y, f), 1.0)
    assert result.estimate.value == pytest.approx(0.4)
    assert result.judge_alone.value == pytest.approx(0.7)


def test_a_judge_that_has_not_erred_yet_may_still_err():
    """10 votes and 1,000 verdicts, all for the model: not narrower than 10 wins allow."""
    result = prediction_powered(*sources([1.0] * 10, [1.0] * 1010))
    assert result.estimate.value == 1
    assert result.estimate.ci95 == pytest.approx(wilson(10, 10))


@pytest.mark.parametrize(
    ("votes", "judge"),
    [
        ({}, {"p1": 0.5, "p2": 0.7}),
        ({"p1": 1.0}, {"p1": 0.5, "p2": 0.7, "p3": 0.2}),
    ],
)
def test_fewer_than_two_votes_have_no_interval(votes, judge):
    result = prediction_powered(votes, judge)
    assert result.estimate.ci95 is None
    assert result.standard_error is None
    assert result.judge_alone == share_estimate(judge)


def test_without_other_prompts_there_are_votes_alone():
    votes, judge = {"p1": 1.0, "p2": 0.0}, {"p1": 0.9, "p2": 0.2}
    alone = share_estimate(votes)
    assert prediction_powered(votes, judge).row() == {
        "value": 0.5,
        "ci95": [*alone.ci95],
        "n_votes": 2,
        "n_judged": 2,
        "votes_alone": alone.row(),
        "judge_alone": share_estimate(judge).row(),
        "weight": 0.0,
    }


def test_votes_without_a_verdict_are_in_the_votes_alone_only():
    y, f = judged(np.random.default_rng(0), 60, 500)
    votes, judge = sources(y, f)
    result = prediction_powered(votes | {"px": 0.0, "py": 0.0}, judge)
    assert result.estimate == prediction_powered(votes, judge).estimate
    assert (result.n_unjudged, result.votes_alone.n, result.estimate.n) == (2, 62, 60)
