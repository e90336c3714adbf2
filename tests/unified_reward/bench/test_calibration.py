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
    reliability,
)
from unified_reward.core.errors import DataError
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
