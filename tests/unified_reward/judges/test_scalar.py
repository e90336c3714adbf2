"""The scalar judge: each candidate is read and verdicts follow from the readings."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verdicts import words
from unified_reward.core.errors import ConfigError, MediaError, ModelError
from unified_reward.core.requests import ValueEstimate
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scored
from unified_reward.judges.card import CARD, Calibration, Card, Head
from unified_reward.judges.registry import open_judge
from unified_reward.judges.scalar import ScalarJudge, compare_estimates, score_estimate
from unified_reward_lab.microworld import make_example, utility_gap


pytestmark = pytest.mark.numeric


PICTURE = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
LN9 = math.log(9)
THREE_EIGHTHS = 24 / math.pi
"""Variance v with pi v / 8 = 3: it halves a value."""

values = st.floats(-30, 30)
sigmas = st.floats(0, 5)
margins = st.one_of(st.none(), st.floats(0, 5))
temperatures = st.floats(0.1, 10)


class Written:
    """Reads what a candidate spells out: ``mean mean / sigma sigma``, overall first."""

    name = "written"

    def __init__(self):
        self.requests = []

    def values(self, requests):
        self.requests += requests
        return [self._read(words(item).rpartition(": ")[2]) for item in requests]

    def _read(self, text):
        if text == "too long":
            return Failed("too many tokens")
        means, _, spread = text.partition("/")
        return ValueEstimate(tuple(map(float, means.split())), tuple(map(float, spread.split())))


def judge(*aspects, uncertain=False, margin=None, **temperature):
    head = Head(aspects, uncertain, margin)
    calibration = Calibration(**temperature) if temperature else None
    return ScalarJudge(Written(), Card("compact", head=head, calibration=calibration))


def questions(*candidates, context=PICTURE):
    candidates = tuple(str(item) for item in candidates)
    return Sample(Task.IMAGE_UNDERSTANDING, "How many?", candidates, (context,))


def shares(verdict):
    return verdict.p_first, verdict.p_tie, verdict.p_second


def test_a_score_is_the_sigmoid_of_the_value():
    """Odds of 9 to 1."""
    verdicts = judge().ask([questions(value) for value in (LN9, 0, -LN9)])
    assert [item.score.value for item in verdicts] == pytest.approx([0.9, 0.5, 0.1])
    assert [item.score.normalized for item in verdicts] == [item.score.value for item in verdicts]
    assert verdicts[0].score.sigma is None


def test_a_comparison_follows_the_difference():
    verdicts = judge().ask([questions(5 + LN9, 5), questions(-3, LN9 - 3), questions(2, 2)])
    assert [item.p_first for item in verdicts] == pytest.approx([0.9, 0.1, 0.5])
    assert [item.winner for item in verdicts] == ["first", "second", "tie"]
    assert all(item.p_tie == pytest.approx(0) for item in verdicts)


def test_a_margin_gives_ties_after_rao_and_kupper():
    """d = e = ln 2: 1/2, 3/10 and 1/5. Equal values, e = ln 3: 1/4, 1/2 and 1/4."""
    (verdict,) = judge(margin=math.log(2)).ask([questions(math.log(2), 0)])
    assert shares(verdict) == pytest.approx((0.5, 0.3, 0.2))
    (equal,) = judge(margin=math.log(3)).ask([questions(1, 1)])
    assert shares(equal) == pytest.approx((0.25, 0.5, 0.25))


@given(values, st.floats(0.001, 5))
def test_equal_values_are_a_tie(value, margin):
    (verdict,) = judge(margin=margin).ask([questions(value, value)])
    assert verdict.winner == "tie"
    assert verdict.p_tie > 0


@given(st.tuples(values, values), st.tuples(sigmas, sigmas), margins, temperatures)
def test_exchanging_the_candidates_mirrors_the_verdict_exactly(means, spread, margin, temperature):
    a, b = (f"{m} / {s}" for m, s in zip(means, spread, strict=True))
    asking = judge(uncertain=True, margin=margin, compare=temperature)
    verdict, swapped = asking.ask([questions(a, b), questions(b, a)])
    assert swapped == verdict.mirrored()
    assert sum(shares(verdict)) == pytest.approx(1)


@given(values, values, temperatures)
def test_aspects_are_mirrored_too(item, other, temperature):
    a, b = f"0 {item}", f"0 {other}"
    verdict, swapped = judge("style", compare=temperature).ask([questions(a, b), questions(b, a)])
    assert swapped.aspects == pytest.approx(verdict.mirrored().aspects)


@given(values, values, temperatures)
def test_temperature_moves_the_probability_and_never_the_winner(item, other, temperature):
    sure = compare_estimates(ValueEstimate((item,)), ValueEstimate((other,)), Head())
    tempered = compare_estimates(
        ValueEstimate((item,)), ValueEstimate((other,)), Head(), temperature=temperature
    )
    is_nearer = abs(tempered.p_first - 0.5) <= abs(sure.p_first - 0.5)
    assert is_nearer is (temperature >= 1) or tempered.p_first == pytest.approx(sure.p_first)
    if abs(item - other) > 1e-12:  # nearer ones round to one half
        assert tempered.winner == sure.winner == ("first" if item > other else "second")


def test_each_form_has_its_own_temperature():
    """ln 9 divided by 2 is ln 3, odds of 3 to 1."""
    samples = [questions(LN9), questions(LN9, 0)]
    score, compare = judge(score=2.0).ask(samples)
    assert (score.score.value, compare.p_first) == pytest.approx((0.75, 0.9))
    score, compare = judge(compare=2.0).ask(samples)
    assert (score.score.value, compare.p_first) == pytest.approx((0.9, 0.75))


def test_a_higher_temperature_makes_ties_rarer():
    """d = 2 ln 2, e = 2 ln 2 at temperature 2 is d = e = ln 2."""
    wide = math.log(4)
    (verdict,) = judge(margin=wide, compare=2.0).ask([questions(wide, 0)])
    assert shares(verdict) == pytest.approx((0.5, 0.3, 0.2))
    sure, tempered = (judge(margin=1.0, compare=t).ask([questions(0.1, 0)])[0] for t in (1.0, 10.0))
    assert (sure.winner, tempered.winner) == ("tie", "first")


def test_uncertainty_halves_the_value_at_a_variance_of_24_over_pi():
    """Half of ln 9 is ln 3, odds of 3 to 1; a comparison adds two variances of 12 / pi."""
    sigma = math.sqrt(THREE_EIGHTHS)
    each = math.sqrt(THREE_EIGHTHS / 2)
    score, compare = judge(uncertain=True).ask(
        [questions(f"{LN9} / {sigma}"), questions(f"{LN9} / {each}", f"0 / {each}")]
    )
    assert (score.score.value, compare.p_first) == pytest.approx((0.75, 0.75))
    assert score.score.sigma == pytest.approx(sigma * 0.75 * 0.25)


@given(values, values, sigmas, st.floats(0.01, 5))
def test_more_uncertainty_moves_probabilities_to_the_middle(item, other, sigma, more):
    def ask(spread):
        head, readings = (
            Head(uncertain=True),
            [ValueEstimate((m,), (spread,)) for m in (item, other)],
        )
        return compare_estimates(*readings, head).p_first, score_estimate(
            readings[0], head
        ).score.value

    for less_sure, sure in zip(ask(sigma + more), ask(sigma), strict=True):
        assert abs(less_sure - 0.5) <= abs(sure - 0.5)


def test_aspects_are_named_in_the_order_of_the_head():
    asking = judge("style", "alignment", uncertain=True, margin=1.0)
    a, b = f"0 {LN9} 0 / 0 0 0.4", "0 0 0 / 0 0 0"
    score, compare = asking.ask([questions(a), questions(a, b)])
    assert {name: item.value for name, item in score.aspects.items()} == pytest.approx(
        {"style": 0.9, "alignment": 0.5}
    )
    assert score.aspects["alignment"].sigma == pytest.approx(0.4 / 4)
    assert compare.aspects == pytest.approx({"style": 0.9, "alignment": 0.5})
    assert compare.winner == "tie"


def test_candidates_are_asked_alone_once_each_whatever_the_orders():
    asking = judge()
    sample = questions(1, 2)
    item, two = (asking.ask([sample], orders=orders) for orders in (1, 2))
    assert item == two
    apart = [words(request) for request in asking.model.requests]
    asking.ask(sample.split())
    assert apart == 2 * [words(request) for request in asking.model.requests[-2:]]
    assert item[0].consistent is None


def test_a_broken_picture_fails_alone_and_keeps_its_error(tmp_path):
    missing = questions(1, 2, context=Image(tmp_path / "none.png"))
    verdicts = judge().ask([questions(LN9), missing, questions(0, LN9)])
    assert [type(item) for item in verdicts] == [Scored, Failed, Preferred]
    assert "none.png: cannot be opened" in verdicts[1].error
    assert verdicts[0].score.value == pytest.approx(0.9)
    assert verdicts[2].p_first == pytest.approx(0.1)
    with pytest.raises(MediaError, match=r"none\.png"):
        judge().score("?", image=tmp_path / "none.png", answer="1")


def test_a_reading_that_failed_is_a_verdict_that_failed():
    lost = Failed("too many tokens")
    samples = [
        questions("too long"),
        questions(1, "too long"),
        questions("too long", 1),
        questions(2, 1),
    ]
    assert judge().ask(samples)[:3] == [lost] * 3
    assert judge().ask(samples)[3].winner == "first"
    with pytest.raises(ModelError, match="too many tokens"):
        judge().compare("?", answers=["too long", "1"], image=PICTURE)


@pytest.mark.parametrize("by", ["score", "pairs"])
def test_ranking_puts_the_highest_value_first_and_leaves_out_what_failed(by):
    ranking = judge(margin=0.5).rank(
        "?", answers=["0.1", "too long", "2.0", "-1.0"], image=PICTURE, by=by
    )
    assert ranking.order == (2, 0, 3)
    assert ranking.scores[1] is None


def test_a_card_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="describes its head"):
        ScalarJudge(Written(), Card("compact"))


def test_head_and_calibration_are_read_as_they_were_written_and_absent_where_none(tmp_path):
    card = Card("compact", head=Head(("style",), True, 0.5), calibration=Calibration(1.5, 0.5))
    card.write(tmp_path)
    assert Card.read(tmp_path) == card
    dataclasses.replace(card, head=None, calibration=None).write(tmp_path)
    assert not {"head", "calibration"} & set(json.loads((tmp_path / CARD).read_text("utf-8")))


@pytest.mark.parametrize(
    ("part", "result"),
    [
        ('"head": {"tie_margn": 1}', "head.tie_margn: Unexpected keyword argument"),
        ('"head": {"tie_margin": -1}', "tie margin is at least 0, not -1"),
        ('"head": {"tie_margin": NaN}', "NaN is not a number"),
        ('"calibration": {"score": 0}', "temperatures are above 0"),
    ],
)
def test_a_head_or_temperature_that_means_nothing_is_refused(part, result, tmp_path):
    (tmp_path / CARD).write_text(f'{{"family": "compact", {part}}}')
    with pytest.raises(ConfigError, match=result):
        Card.read(tmp_path)


def test_the_shipped_scalar_judge_names_the_better_picture():
    """0.94 of clear pairs in docs/results.md; 30 of 40 is 3 standard deviations above chance."""
    judge = open_judge("tiny_scalar")
    task = Task.IMAGE_GENERATION
    records = [make_example(task, "compare", split="test", seed=7, index=i) for i in range(60)]
    clear = [record for record in records if utility_gap(record) >= 0.1][:40]
    verdicts = judge.ask([item.sample for item in clear])
    right = [v.winner == item.target.winner for v, item in zip(verdicts, clear, strict=True)]
    assert sum(right) >= 30
