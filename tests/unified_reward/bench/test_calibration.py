"""Calibration errors by hand; and temperatures that are found where they are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.bench.calibration import (
    Bin,
    Predictions,
    brier_score,
    calibration_error,
    collect_predictions,
    fit_calibration,
    fit_tie_margin,
    prompt_halves,
    recalibrate,
    reliability,
)
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.requests import Answer, ValueEstimate
from unified_reward.core.samples import Example, Image, Sample, Target, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.judges.card import Calibration, Card, Head
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.scalar import ScalarJudge


UNIT = Scale(0.0, 1.0)


def questions(i, form):
    pictures = (Image(f"{i}a.png"), Image(f"{i}b.png"))[: 1 + (form == "compare")]
    return Sample(Task.IMAGE_GENERATION, f"prompt {i}", pictures, id=str(i))


def given_rows(predicted, observed):
    return Predictions(np.array(predicted), np.array(observed), list(range(len(predicted))))


def test_the_error_of_two_bins_is_their_distances_by_their_sizes():
    """Three at 0.2 of which none came true, one at 0.9 that did: 3/4 of 0.2 and 1/4 of 0.1."""
    error = calibration_error(given_rows([0.2, 0.2, 0.2, 0.9], [0.0, 0.0, 0.0, 1.0]))
    assert error.value == pytest.approx(0.75 * 0.2 + 0.25 * 0.1)
    assert error.n == 4
    assert error.ci95[0] <= error.value <= error.ci95[1]


def test_probability_one_falls_into_the_last_bin():
    assert reliability(np.array([1.0, 0.95]), np.array([1.0, 0.0])) == [Bin(0.975, 0.5, 2)]


@pytest.mark.slow
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_what_comes_true_as_predicted_has_no_error(predicted):
    assert calibration_error(given_rows(predicted, predicted)).value == pytest.approx(0, abs=1e-12)


def test_missing_verdicts_are_no_predictions():
    pair, single = questions(0, "compare"), questions(1, "score")
    records = [Example.of(pair, Target(winner="tie"))] * 2
    records += [Example.of(single, Target(score=0.4, scale=UNIT))] * 2
    verdicts = [Preferred(0.6, 0.2, 0.2), Unparsed("?"), Failed("!"), Scored(Score(3, Scale(1, 5)))]
    found = collect_predictions(records, verdicts)
    assert found.predicted.tolist() == pytest.approx([0.7, 0.5])
    assert found.observed.tolist() == [0.5, 0.4]
    assert found.clusters == ["prompt 0", "prompt 1"]
    assert math.isnan(calibration_error(collect_predictions(records[1:3], verdicts[1:3])).value)


def test_a_label_is_compared_on_its_own_scale():
    """5 of 1 to 5 is 1, as 4 of 1 to 5 is 0.75; a label without a scale is none."""
    single = questions(0, "score")
    labels = [
        Target(score=5, scale=Scale(1, 5)),
        Target(score=5),
        Target(score=5, scale=Scale(0, None)),
    ]
    verdicts = [Scored(Score(4, Scale(1, 5)))] * 3
    found = collect_predictions([Example.of(single, label) for label in labels], verdicts)
    assert (found.predicted.tolist(), found.observed.tolist()) == ([0.75], [1.0])


class Overconfident:
    """Reads a value ``factor`` times too large; the truth is Bernoulli of the true one."""

    name = "overconfident"

    def __init__(self, factor):
        self._values = iter(np.random.default_rng(0).normal(size=100_000))
        self._factor = factor
        self.read = []

    def values(self, requests):
        true = [float(next(self._values)) for _ in requests]
        self.read += true
        return [ValueEstimate((self._factor * item,)) for item in true]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_of_a_scalar_judge_undoes_a_known_overconfidence(factor, monkeypatch):
    monkeypatch.setattr("unified_reward.judges.card.media.open_image", lambda _: None)
    rng = np.random.default_rng(1)
    n = 2000
    truth = np.random.default_rng(0).normal(size=3 * n)
    pairs, singles = truth[: 2 * n].reshape(n, 2), truth[2 * n :]
    records = [
        Example.of(
            questions(i, "compare"),
            Target(winner="first" if rng.random() < sigmoid(a - b) else "second"),
        )
        for i, (a, b) in enumerate(pairs)
    ]
    records += [
        Example.of(questions(n + i, "score"), Target(score=sigmoid(value), scale=UNIT))
        for i, value in enumerate(singles)
    ]
    judge = ScalarJudge(Overconfident(factor), Card("compact", head=Head()))
    found = fit_calibration(judge, records)
    assert found.compare == pytest.approx(factor, rel=0.15)  # standard error about 4 %
    assert found.score == pytest.approx(factor, rel=0.01)


class Sure:
    """A model that speaks and is always nearly certain of the first choice."""

    name = "sure"

    def generate(self, requests):
        return [Answer("", (-0.01, *[-5.0] * (len(item.choices) - 1))) for item in requests]


def test_a_temperature_above_one_makes_the_spoken_verdict_less_sure_but_not_another():
    sample = Sample(
        Task.IMAGE_UNDERSTANDING,
        "what?",
        ("a", "b"),
        (Image(np.zeros((8, 8, 3), np.uint8), "HWC"),),
    )
    plain = GenerativeJudge(Sure(), Card("compact")).ask([sample], orders=1)[0]
    card = Card("compact", calibration=Calibration(compare=4.0))
    calmer = GenerativeJudge(Sure(), card).ask([sample], orders=1)[0]
    assert plain.winner == calmer.winner == "first"
    assert plain.p_first > 0.98
    expected = np.exp(np.array([-0.01, -5, -5]) / 4)
    assert calmer.p_first == pytest.approx(expected[0] / expected.sum())


def test_without_a_readable_verdict_there_is_nothing_to_fit():
    class Silent(Sure):
        def generate(self, requests):
            return [Failed("down") for _ in requests]

    picture = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    sample = Sample(Task.IMAGE_GENERATION, "x", (picture, picture))
    with pytest.raises(DataError, match="no readable verdict of form 'compare'"):
        fit_calibration(
            GenerativeJudge(Silent(), Card("compact")), [Example.of(sample, Target(winner="first"))]
        )


def test_verdicts_that_are_read_from_text_alone_have_temperature_1():
    """They do not depend on it: any other would be an artefact of the search."""

    class Spoken(Sure):
        def generate(self, requests):
            return [Answer(item.choices[0]) for item in requests]

    picture = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    sample = Sample(Task.IMAGE_GENERATION, "x", (picture, picture))
    judge = GenerativeJudge(Spoken(), Card("compact"))
    found = fit_calibration(judge, [Example.of(sample, Target(winner="second"))] * 2)
    assert (found.compare, found.score, found.n) == (1.0, 1.0, 2)


def test_the_brier_score_by_hand():
    """Errors 0.2, 0.8 and 0.5 squared."""
    found = brier_score(given_rows([0.2, 0.2, 0.5], [0.0, 1.0, 1.0]))
    assert (found.value, found.n) == (pytest.approx((0.04 + 0.64 + 0.25) / 3), 3)


def test_intervals_of_calibration_figures_are_over_prompts_not_items():
    predicted = np.repeat(np.random.default_rng(0).random(40), 10)
    observed = np.repeat(np.random.default_rng(1).integers(0, 2, 40), 10).astype(float)
    by_prompt = Predictions(predicted, observed, np.repeat(np.arange(40), 10).tolist())
    by_item = Predictions(predicted, observed, [*range(400)])
    for figure in (calibration_error, brier_score):
        width, naive = (
            metric.ci95[1] - metric.ci95[0] for metric in map(figure, (by_prompt, by_item))
        )
        assert figure(by_prompt).value == figure(by_item).value
        assert width > 1.8 * naive


def test_a_certain_and_wrong_judge_has_a_finite_loss():
    class Certain(Sure):
        def generate(self, requests):
            return [Answer("", (0.0, *[-9999.0] * (len(item.choices) - 1))) for item in requests]

    image = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    pair, single = (Sample(Task.IMAGE_GENERATION, "x", (image,) * n) for n in (2, 1))
    examples = [
        Example.of(pair, Target(winner="second")),
        Example.of(single, Target(score=1.0, scale=UNIT)),
    ]
    judge = GenerativeJudge(Certain(), Card("compact"))
    fitted = fit_calibration(judge, examples)
    assert 0.05 <= fitted.compare <= 20
    assert 0.05 <= fitted.score <= 20
    assert fit_calibration(judge, examples[:1]) == Calibration(fitted.compare, 1.0, n=1)
    assert fit_calibration(judge, examples[1:]) == Calibration(1.0, fitted.score, n=1)
    with pytest.raises(DataError, match="no examples to calibrate on"):
        fit_calibration(judge, [])


def test_several_raters_are_compared_with_the_share_of_their_votes():
    """Two votes for a, one for b and a tie: 2.5 of 4; one who cannot tell says nothing."""
    raters = {"n": 5, "a": 2, "b": 1, "tie": 1, "both_bad": 0, "cannot_tell": 1}
    examples = [
        Example.of(questions(0, "compare"), Target(winner="first"), raters=each)
        for each in (raters, 4, raters | {"a": 0, "b": 0, "tie": 0})
    ]
    found = collect_predictions(examples, [Preferred(0.6, 0.2, 0.2)] * 3)
    assert found.observed.tolist() == [0.625, 1.0, 1.0]


class Noticing:
    """A scalar model whose comparisons have the leads given, by the id of the question."""

    name = "noticing"

    def __init__(self, leads):
        self._leads = iter(leads)

    def values(self, requests):
        pairs = [next(self._leads) for _ in requests[::2]]
        odds = [math.log((1 + lead) / (1 - lead)) for lead in pairs]
        return [ValueEstimate((value,)) for each in odds for value in (each, 0.0)]


def near_ties(n, seed):
    """Leads of a calibrated judge without ties, and labels: ties up to a lead of 0.2."""
    rng = np.random.default_rng(seed)
    leads = rng.uniform(-0.9, 0.9, n)
    sides = np.where(rng.random(n) < (1 + leads) / 2, "first", "second")
    labels = ["tie" if abs(leads[i]) <= 0.2 else str(sides[i]) for i in range(n)]
    examples = [
        Example.of(questions(i, "compare"), Target(winner=label)) for i, label in enumerate(labels)
    ]
    return leads, examples


def scalar_judge(leads, calibration=None, monkeypatch=None):
    monkeypatch.setattr("unified_reward.judges.card.media.open_image", lambda _: None)
    card = Card("compact", head=Head(), calibration=calibration)
    return ScalarJudge(Noticing(leads), card)


def test_a_margin_is_found_where_people_have_ties_and_the_judge_has_none():
    leads, examples = near_ties(200, 0)
    verdicts = [Preferred((1 + lead) / 2, 0.0, (1 - lead) / 2) for lead in leads]
    margin = fit_tie_margin(examples, verdicts)
    assert margin == pytest.approx(max(abs(lead) for lead in leads if abs(lead) <= 0.2))
    assert fit_tie_margin(examples[:3], verdicts[:3]) == 0.0


def test_a_margin_that_does_not_pay_on_other_prompts_is_0():
    """Ties anywhere, by chance: the best threshold of these items is above 0, and worthless."""
    rng = np.random.default_rng(3)
    leads, examples = near_ties(60, 3)
    verdicts = [Preferred((1 + lead) / 2, 0.0, (1 - lead) / 2) for lead in leads]
    labels = ["tie" if rng.random() < 0.3 else verdict.winner for verdict in verdicts]
    examples = [
        Example.of(example.sample, Target(winner=label))
        for example, label in zip(examples, labels, strict=True)
    ]
    assert fit_tie_margin(examples, verdicts) == 0.0


def test_a_judge_names_ties_up_to_the_margin_of_its_card(monkeypatch):
    leads = [0.1, -0.3, 0.6]
    judge = scalar_judge(leads, Calibration(tie_margin=0.3000001), monkeypatch)
    verdicts = judge.ask([questions(i, "compare") for i in range(3)])
    assert [verdict.winner for verdict in verdicts] == ["tie", "tie", "first"]
    assert [2 * verdict.probability - 1 for verdict in verdicts] == pytest.approx(leads)


def test_a_spoken_judge_names_ties_up_to_the_margin_in_both_orders():
    """The first place wins at 0.6 in both orders: a lead of 0, a tie by itself; alone it is 0.2."""

    class Leaning(Sure):
        def generate(self, requests):
            return [Answer("", (math.log(0.6), -99.0, math.log(0.4))) for _ in requests]

    picture = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    sample = Sample(Task.IMAGE_UNDERSTANDING, "what?", ("a", "b"), (picture,))
    for margin, winner in ((0.1, "first"), (0.21, "tie")):
        card = Card("compact", calibration=Calibration(tie_margin=margin))
        (verdict,) = GenerativeJudge(Leaning(), card).ask([sample], orders=1)
        assert (verdict.winner, verdict.probability) == (winner, pytest.approx(0.6))


@pytest.mark.parametrize("margin", [-0.1, 0.6, math.nan])
def test_a_margin_beyond_one_half_is_refused(margin):
    with pytest.raises(ConfigError, match=r"tie_margin is in \[0, 0.5\]"):
        Calibration(tie_margin=margin)


def test_figures_after_a_calibration_are_on_prompts_it_was_not_fitted_on(monkeypatch):
    """Before, every tie of people is wrong; after, most are right, and few others suffer."""
    leads, examples = near_ties(400, 1)
    found = recalibrate(scalar_judge(leads, None, monkeypatch), examples)
    labels = [example.target.winner for example in examples]
    sides = ["first" if lead > 0 else "second" for lead in leads]
    before, after = (part["compare"]["three_way_accuracy"] for part in (found.before, found.after))
    assert before.value == np.mean(np.array(sides) == labels)
    gain = after.value - before.value
    assert 0.9 * labels.count("tie") / 400 < gain < labels.count("tie") / 400
    assert after.n == 400
    called = [verdict.winner for verdict in found.verdicts]
    assert found.calibration.tie_margin > 0.1
    assert called.count("tie") == labels.count("tie")


def test_halves_hold_whole_prompts_and_half_of_them():
    prompts = [f"prompt {i // 3}" for i in range(30)]
    halves = prompt_halves(prompts)
    assert sum(halves) == 15
    assert all(halves[i] == halves[i - i % 3] for i in range(30))


def test_one_prompt_is_too_little_to_measure_on(monkeypatch):
    examples = [Example.of(questions(0, "compare"), Target(winner="first"))] * 4
    with pytest.raises(DataError, match="at least two prompts"):
        recalibrate(scalar_judge([0.1] * 4, None, monkeypatch), examples)
