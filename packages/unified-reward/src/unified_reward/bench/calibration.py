"""Calibration: how far a judge's probabilities and scores are to be believed, and mending them.

A comparison predicts the probability that the first is better, a tie counted half; a score
predicts a utility in [0, 1]. Both are held against what turned out, 1, 0.5 or 0, or the utility.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from unified_reward.bench.metrics import Indices, Metric, bootstrap, mean_interval
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Form
from unified_reward.core.verdicts import Preferred, Scored, Verdict
from unified_reward.judges.card import Calibration, CardedJudge


BINS = 10
_OUTCOMES = {"first": 1.0, "tie": 0.5, "second": 0.0}
_LEAST, _MOST = 0.05, 20.0
_EPSILON = 1e-6


class Predictions(NamedTuple):
    """What was predicted and what turned out, both in [0, 1], item by item."""

    predicted: np.ndarray
    observed: np.ndarray
    clusters: list[Hashable]


class Bin(NamedTuple):
    """One bar of a reliability plot."""

    predicted: float
    """Mean prediction in the bin."""
    observed: float
    """Mean outcome in the bin."""
    n: int


def collect_predictions(records: Sequence[Example], verdicts: Sequence[Verdict]) -> Predictions:
    """Predictions with outcomes; a verdict that is missing is left out, and so counts nowhere."""
    rows: list[tuple[float, float, Hashable]] = []
    for record, verdict in zip(records, verdicts, strict=True):
        target = record.target
        if isinstance(verdict, Preferred) and target.winner:
            outcome = _OUTCOMES[target.winner]
            rows.append((verdict.probability, outcome, record.sample.prompt))
        elif isinstance(verdict, Scored) and verdict.score and target.score is not None:
            predicted = verdict.score.normalized
            if predicted is not None:
                rows.append((predicted, target.score, record.sample.prompt))
    predicted, observed, clusters = zip(*rows, strict=True) if rows else ((), (), ())
    return Predictions(np.array(predicted), np.array(observed), [*clusters])


def reliability(predicted: np.ndarray, observed: np.ndarray, *, bins: int = BINS) -> list[Bin]:
    """Mean prediction and mean outcome in bins of equal width over [0, 1]; empty ones left out.

    >>> reliability(np.array([0.125, 0.125, 0.875]), np.array([0.0, 1.0, 1.0]))
    [Bin(predicted=0.125, observed=0.5, n=2), Bin(predicted=0.875, observed=1.0, n=1)]
    """
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    found: list[Bin] = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            means = float(predicted[inside].mean()), float(observed[inside].mean())
            found.append(Bin(*means, int(inside.sum())))
    return found


def calibration_error(given: Predictions, *, bins: int = BINS, seed: int = 0) -> Metric:
    """Expected calibration error: the bins' ``|mean outcome - mean prediction|``, by their size.

    ``ECE = sum_b n_b / N |observed_b - predicted_b|`` (Guo et al. 2017, arXiv:1706.04599, eq. 3).
    It is biased upwards where bins are small; the interval is by bootstrap over prompts.
    """

    def error(drawn: Indices) -> float:
        found = reliability(given.predicted[drawn], given.observed[drawn], bins=bins)
        return sum(one.n * abs(one.observed - one.predicted) for one in found) / len(drawn)

    n = len(given.predicted)
    if n == 0:
        return Metric(float("nan"), (float("nan"), float("nan")), 0)
    return Metric(error(np.arange(n)), bootstrap(error, given.clusters, seed=seed), n)


def brier_score(given: Predictions) -> Metric:
    """Mean squared error of the prediction: 0 at best, 0.25 for one that is always 0.5.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; a tie is an outcome of 0.5.
    """
    errors = ((given.predicted - given.observed) ** 2).tolist()
    if not errors:
        return Metric(float("nan"), (float("nan"), float("nan")), 0)
    interval = mean_interval(errors, given.clusters)
    return Metric(sum(errors) / len(errors), interval, len(errors))


def fit_calibration(judge: CardedJudge, records: Sequence[Example]) -> Calibration:
    """The temperatures under which a judge's predictions lose least against what turned out.

    Each question is asked once; its replies are read at many temperatures. The loss is the
    cross-entropy of the prediction with the outcome, least on average where they agree.

    Args:
        judge: The judge; what its own card says of calibration is not used.
        records: Items that it was not trained on.

    Raises:
        DataError: There is no readable verdict of a form.
    """
    found: dict[str, float] = {}
    forms: tuple[Form, Form] = ("compare", "score")
    for form in forms:
        of_form = [one for one in records if one.sample.form == form]
        samples = [one.sample for one in of_form]
        heard = judge.query(samples)

        def loss(log_temperature: float) -> float:
            temperature = float(np.exp(log_temperature))
            verdicts = judge.read(samples, heard, Calibration(temperature, temperature))  # noqa: B023
            given = collect_predictions(of_form, verdicts)  # noqa: B023
            p = given.predicted.clip(_EPSILON, 1 - _EPSILON)
            return float(-(given.observed * np.log(p) + (1 - given.observed) * np.log1p(-p)).mean())

        if not len(
            collect_predictions(of_form, judge.read(samples, heard, Calibration())).predicted
        ):
            raise DataError(f"no readable verdict of form {form!r} to calibrate on")
        least = minimize_scalar(loss, bounds=(np.log(_LEAST), np.log(_MOST)), method="bounded")
        found[form] = round(float(np.exp(least.x)), 4)
    return Calibration(**found)
