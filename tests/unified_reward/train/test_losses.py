"""The losses of scalar judges, against numbers derived by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.backends.value_head import ValueHead
from unified_reward.core.requests import ValueEstimate
from unified_reward.judges.card import Head
from unified_reward.judges.scalar import compare_estimates
from unified_reward.train.losses import (
    bradley_terry,
    expected_share,
    marginal_logit,
    rao_kupper,
    regression,
    score_ranking,
    to_positive,
    uncertain_regression,
)


pytestmark = pytest.mark.numeric


FIRST, TIE, SECOND = 1.0, 0.5, 0.0

values = st.floats(-8, 8)
margins = st.floats(0.01, 4)
shares = st.floats(0.001, 0.999)


def batch(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def three(difference, margin):
    """The probabilities of first, tie and second that the loss stands for."""
    return [
        math.exp(-rao_kupper(batch(difference), batch(outcome), torch.tensor(margin).double()))
        for outcome in (FIRST, TIE, SECOND)
    ]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (FIRST, math.log(4 / 3)),
        (SECOND, math.log(4)),
        (TIE, math.log(4 / math.sqrt(3))),
        (0.75, 0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
    ],
)
def test_odds_of_three_to_one_cost_what_their_logarithms_say(outcome, expected):
    """A difference of ln 3 gives the first a probability of 3/4."""
    assert float(bradley_terry(batch(math.log(3)), batch(outcome))) == pytest.approx(expected)


def test_a_batch_costs_its_mean():
    """(ln 4/3 + ln 4) / 2 = ln(16/3) / 2."""
    loss = bradley_terry(batch(math.log(3), math.log(3)), batch(FIRST, SECOND))
    assert float(loss) == pytest.approx(math.log(16 / 3) / 2)


@given(values, shares)
def test_exchanging_the_candidates_costs_the_same(difference, outcome):
    there = bradley_terry(batch(difference), batch(outcome))
    back = bradley_terry(batch(-difference), batch(1 - outcome))
    assert float(there) == pytest.approx(float(back))


@pytest.mark.parametrize(("outcome", "probability"), [(FIRST, 0.5), (TIE, 0.3), (SECOND, 0.2)])
def test_ties_after_rao_and_kupper(outcome, probability):
    """d = e = ln 2: sigmoid(0) = 1/2, sigmoid(-ln 4) = 1/5, (4 - 1) * 1/2 * 1/5 = 3/10."""
    loss = rao_kupper(batch(math.log(2)), batch(outcome), torch.tensor(math.log(2)))
    assert float(loss) == pytest.approx(-math.log(probability))


@given(values, margins)
def test_the_three_outcomes_have_probability_one(difference, margin):
    assert sum(three(difference, margin)) == pytest.approx(1)


@given(values, margins)
def test_exchanging_the_candidates_exchanges_first_and_second(difference, margin):
    assert three(difference, margin) == pytest.approx(three(-difference, margin)[::-1])


@given(values)
def test_without_a_margin_there_are_no_ties(difference):
    first, tie, second = three(difference, 1e-7)
    alone = bradley_terry(batch(difference), batch(FIRST))
    assert tie < 1e-6
    assert first == pytest.approx(math.exp(-alone), abs=1e-6)
    assert second == pytest.approx(1 - math.exp(-alone), abs=1e-6)


@pytest.mark.parametrize("raw", [-30.0, 0.0, 10.0])
@pytest.mark.parametrize("difference", [-60.0, 0.0, 60.0])
def test_gradients_of_ties_are_finite_far_out(raw, difference):
    raw, difference = (torch.tensor([entry], requires_grad=True) for entry in (raw, difference))
    outcome = torch.tensor([FIRST, TIE, SECOND])
    rao_kupper(difference.expand(3), outcome, to_positive(raw)).backward()
    assert difference.grad.isfinite().all()
    assert raw.grad.isfinite().all()


@given(values, shares)
def test_a_regressed_value_is_best_where_its_sigmoid_is_the_score(value, share):
    """There the gradient ``sigmoid(value) - share`` is zero and the loss the share's entropy."""
    best = batch(math.log(share / (1 - share))).requires_grad_()
    loss = regression(best, batch(share))
    loss.backward()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert loss.item() == pytest.approx(entropy)
    assert float(best.grad) == pytest.approx(0, abs=1e-9)
    assert float(regression(batch(value), batch(share))) >= entropy - 1e-9


def test_an_error_of_one_sigma_costs_half_and_its_logarithm():
    """The log-odds of 3/4 are ln 3; an error of 2 at sigma 2 costs 1/2 + ln 2."""
    loss = uncertain_regression(batch(math.log(3) - 2), batch(2.0), batch(0.75))
    assert float(loss) == pytest.approx(0.5 + math.log(2))


@given(st.floats(0.05, 5), st.floats(0.05, 5))
def test_the_best_sigma_for_an_error_is_the_error(error, other):
    best = batch(error).requires_grad_()
    loss = uncertain_regression(batch(error), best, batch(0.5))
    loss.backward()
    assert float(best.grad) == pytest.approx(0, abs=1e-9)
    assert float(uncertain_regression(batch(error), batch(other), batch(0.5))) >= loss.item() - 1e-9


@pytest.mark.parametrize(("share", "odds"), [(0.0, 1 / 49), (1.0, 49), (0.01, 1 / 49)])
def test_scores_at_the_ends_count_as_two_hundredths_off(share, odds):
    assert float(uncertain_regression(batch(math.log(odds)), batch(1.0), batch(share))) == (
        pytest.approx(0, abs=1e-12)
    )


@given(st.floats(-6, 6), st.floats(0.01, 25))
def test_a_narrowed_value_has_nearly_the_mean_of_sigmoid(mean, variance):
    z = np.linspace(-8, 8, 2001)
    weights = np.exp(-(z**2) / 2)
    inner = 1 / (1 + np.exp(-(mean + math.sqrt(variance) * z)))
    integral = float((weights * inner).sum() / weights.sum())
    assert float(marginal_logit(batch(mean), batch(variance)).sigmoid()) == pytest.approx(
        integral, abs=0.02
    )


@given(values, values, st.floats(0, 3), st.floats(0, 3), margins)
def test_a_judge_reads_the_probabilities_it_was_trained_on(entry, other, s1, s2, margin):
    difference = marginal_logit(batch(entry - other), batch(s1**2 + s2**2))
    verdict = compare_estimates(
        ValueEstimate((entry,), (s1,)), ValueEstimate((other,), (s2,)), Head(tie_margin=margin)
    )
    assert [verdict.p_first, verdict.p_tie, verdict.p_second] == pytest.approx(
        three(float(difference), margin)
    )


@given(st.floats(-100, 100))
def test_a_positive_number_is_above_zero(raw):
    assert float(to_positive(torch.tensor(raw))) > 0


def test_values_reach_the_loss_in_full_precision_where_the_trunk_has_less():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means, sigmas = ValueHead(8, 2, uncertain=True)(torch.ones(3, 8, dtype=torch.bfloat16))
    assert (means.dtype, sigmas.dtype) == (torch.float32, torch.float32)
    assert means.shape == sigmas.shape == (3, 2)


def test_a_score_is_expected_at_the_mean_of_its_steps():
    """Weights 1, 2 and 1 of three steps: 0.5; 1 and 3 of two: 0.75, whatever stands beyond."""
    logits = torch.tensor([[1.0, 2.0, 1.0], [1.0, 3.0, 99.0]]).log()
    is_step = torch.tensor([[True, True, True], [True, True, False]])
    assert expected_share(logits, is_step).tolist() == pytest.approx([0.5, 0.75])


def test_rows_without_steps_have_finite_gradients():
    logits = torch.zeros(1, 3, requires_grad=True)
    expected_share(logits, torch.zeros(1, 3, dtype=torch.bool)).sum().backward()
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_a_tenth_of_the_scale_ahead_has_odds_of_e_to_one():
    """Expected scores 0.6 and 0.5: log(1 + 1/e) if the first is better, 1 more if it is not."""
    ahead, behind = score_ranking(batch(0.6, 0.6), batch(0.5, 0.5), batch(FIRST, SECOND))
    assert float(ahead) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(behind - ahead) == pytest.approx(1.0)
