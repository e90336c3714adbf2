"""Ties within a margin: which comparisons can become ties, and what stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.probability import MAX_TIE_MARGIN, call_ties
from unified_reward.core.verdicts import Preferred
from unified_reward.io.verdict_rows import check_winner, read_verdict, verdict_row


@st.composite
def comparisons(draw):
    """Three probabilities, also of exactly undecided and of certain judges."""
    weights = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    first, tie, second = (draw(weights) for _ in range(3))
    total = first + tie + second
    return Preferred(first / total, tie / total, second / total) if total else Preferred(0, 1, 0)


@given(comparisons(), st.floats(0, MAX_TIE_MARGIN))
def test_a_lead_within_the_margin_is_a_tie_and_its_probability_stays(verdict, margin):
    called = call_ties(verdict, margin)
    lead = verdict.p_first - verdict.p_second
    assert called.winner == ("tie" if abs(lead) <= margin else verdict.winner)
    assert called.probability == pytest.approx(verdict.probability, abs=1e-12)
    if called.winner == "tie":
        check_winner("tie", called.probability)
        assert called.p_tie >= verdict.p_tie
    assert call_ties(verdict.mirrored(), margin) == called.mirrored()
    row = verdict_row("x", called, judge="j", family="f")
    assert read_verdict(json.loads(json.dumps(row))) == called


@given(st.floats(0, 1), st.floats(0, 1))
def test_no_tie_with_the_same_probability_exists_beyond_a_lead_of_one_half(lead, tie):
    """With a lead d the sides have (1 - t ± d) / 2: t is most probable and the sides exist."""
    first, second = (1 - tie + lead) / 2, (1 - tie - lead) / 2
    if second >= 0 and tie >= first:
        assert lead <= MAX_TIE_MARGIN + 1e-9
        assert tie >= (1 + lead) / 3 - 1e-9


def test_the_least_probability_moves_by_hand():
    """Lead 0.2: a tie of 0.4 equals the leading side, and the other keeps 0.2."""
    called = call_ties(Preferred(0.6, 0.0, 0.4, {"style": 0.9}, "text"), 0.2000001)
    assert (called.p_first, called.p_tie, called.p_second) == pytest.approx((0.4, 0.4, 0.2))
    assert (called.aspects, called.text) == ({"style": 0.9}, "text")
    assert call_ties(Preferred(0.75, 0.0, 0.25), 0.5).p_second == 0


def test_verdicts_by_order_stay_those_of_the_judge():
    orders = (Preferred(0.9, 0.0, 0.1), Preferred(0.2, 0.0, 0.8))
    called = call_ties(Preferred(0.55, 0.0, 0.45, orders=orders), 0.3)
    assert (called.winner, called.orders, called.consistent) == ("tie", orders, False)
