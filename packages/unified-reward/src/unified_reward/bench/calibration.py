"""Calibration of a judge: its calibration error, and temperatures that reduce it.

A comparison predicts the probability that the first is better, a tie counted half, and its outcome
is 1, 0.5 or 0. A score predicts a utility in [0, 1], and its outcome is the labelled score.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from unified_reward.bench.metrics import Indices, Metric, bootstrap, mean_interval
from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Example, Form
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Scored, Verdict
from unified_reward.judges.card import Calibration, CardedJudge


BINS = 10
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0
_EPSILON = 1e-6


class Predictions(NamedTuple):
    """Predictions and outcomes of n items, both in [0, 1]."""

    predicted: np.ndarray
    """Shape (n,)."""
    observed: np.ndarray
    """Shape (n,)."""
    clusters: list[Hashable]
    """Prompt of every item."""


class Bin(NamedTuple):
    """Bin of a reliability plot."""

    predicted: float
    """Mean prediction in the bin."""
    observed: float
    """Mean outcome in the bin."""
    n: int


def collect_predictions(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> Predictions:
    """Predictions with their outcomes, both in [0, 1].

    Examples without a readable verdict, without a label, or with one of them on an open scale are
    left out.

    Args:
        examples: Labelled examples.
        verdicts: Verdict on each, of the same length.
    """
    rows: list[tuple[float, float, Hashable]] = []
    for example, verdict in zip(examples, verdicts, strict=True):
        target = example.target
        if isinstance(verdict, Preferred) and target.winner:
            outcome = WIN_SHARES[target.winner]
            rows.append((verdict.probability, outcome, example.sample.prompt))
        elif isinstance(verdict, Scored) and verdict.score and target.score is not None:
            predicted = verdict.score.normalized
            observed = target.scale.share(target.score) if target.scale else None
            if predicted is not None and observed is not None:
                rows.append((predicted, observed, example.sample.prompt))
    predictions, outcomes, clusters = zip(*rows, strict=True) if rows else ((), (), ())
    return Predictions(np.array(predictions), np.array(outcomes), [*clusters])


def reliability(predicted: np.ndarray, observed: np.ndarray) -> list[Bin]:
    """Mean prediction and mean outcome in bins of equal width over [0, 1]; empty ones left out.

    >>> reliability(np.array([0.125, 0.125, 0.875]), np.array([0.0, 1.0, 1.0]))
    [Bin(predicted=0.125, observed=0.5, n=2), Bin(predicted=0.875, observed=1.0, n=1)]
    """
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    filled: list[Bin] = []
    for i in range(BINS):
        inside = place == i
        if inside.any():
            means = float(predicted[inside].mean()), float(observed[inside].mean())
            filled.append(Bin(*means, int(inside.sum())))
    return filled


def calibration_error(predictions: Predictions) -> Metric:
    """Expected calibration error: mean ``|mean outcome - mean prediction|`` of the bins, by size.

    ``ECE = sum_b n_b / N |observed_b - predicted_b|`` (Guo et al. 2017, arXiv:1706.04599, eq. 3).
    It is biased upwards where bins are small; the interval is a bootstrap over prompts.
    """

    def error(indices: Indices) -> float:
        filled = reliability(predictions.predicted[indices], predictions.observed[indices])
        return sum(bar.n * abs(bar.observed - bar.predicted) for bar in filled) / len(indices)

    n = len(predictions.predicted)
    if n == 0:
        return Metric(float("nan"), (float("nan"), float("nan")), 0)
    return Metric(error(np.arange(n)), bootstrap(error, predictions.clusters), n)


def brier_score(predictions: Predictions) -> Metric:
    """Mean squared error of the predictions: 0 at best, 0.25 for one that is always 0.5.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; a tie is an outcome of 0.5.
    """
    errors = ((predictions.predicted - predictions.observed) ** 2).tolist()
    if not errors:
        return Metric(float("nan"), (float("nan"), float("nan")), 0)
    interval = mean_interval(errors, predictions.clusters)
    return Metric(sum(errors) / len(errors), interval, len(errors))


def fit_calibration(judge: CardedJudge, examples: Sequence[Example]) -> Calibration:
    """Fit the temperatures that minimise the cross-entropy of predictions with outcomes.

    Each question is asked once; its replies are decoded at many temperatures.

    Args:
        judge: The judge; the calibration of its own card is ignored.
        examples: Labelled comparisons, scores or both, that it was not trained on. Without examples
            of a form, or of verdicts that depend on it, its temperature is 1.

    Returns:
        The temperatures, and the number of examples with a label and a readable verdict.

    Raises:
        DataError: There are no examples, or no readable verdict on those of a form.
    """
    with extra("bench"):
        from scipy.optimize import minimize_scalar

    if not examples:
        raise DataError("no examples to calibrate on")
    temperatures: dict[Form, float] = {"compare": 1.0, "score": 1.0}
    n = 0
    for form in temperatures:
        of_form = [example for example in examples if example.sample.form == form]
        if not of_form:
            continue
        samples = [example.sample for example in of_form]
        replies = judge.query(samples)

        def predict(temperature: float) -> Predictions:
            calibration = Calibration(temperature, temperature)
            verdicts = judge.decode(samples, replies, calibration)  # noqa: B023
            return collect_predictions(of_form, verdicts)  # noqa: B023

        def loss(log_temperature: float) -> float:
            predictions = predict(float(np.exp(log_temperature)))
            p, observed = predictions.predicted.clip(_EPSILON, 1 - _EPSILON), predictions.observed
            return float(-(observed * np.log(p) + (1 - observed) * np.log1p(-p)).mean())

        n_of_form = len(predict(1.0).predicted)
        if not n_of_form:
            raise DataError(f"no readable verdict of form {form!r} to calibrate on")
        n += n_of_form
        bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
        best = minimize_scalar(loss, bounds=bounds, method="bounded")
        if best.fun < loss(0.0):  # not where only text is read, which no temperature changes
            temperatures[form] = round(float(np.exp(best.x)), 4)
    return Calibration(temperatures["compare"], temperatures["score"], n=n)
