"""Calibration of a judge: its calibration error, and temperatures and ties that reduce errors.

A comparison predicts the probability that the first is better, a tie counted half, and its outcome
is 1, 0.5 or 0, or the share of several people's votes. A score predicts a utility in [0, 1], and
its outcome is the labelled score.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple, cast

import numpy as np

from unified_reward.bench.metrics import (
    Indices,
    Metric,
    bootstrap,
    mean_interval,
    three_way_accuracy,
    tie_threshold,
)
from unified_reward.core.base_judge import Progress
from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.probability import MAX_TIE_MARGIN, call_ties
from unified_reward.core.samples import Example, Form
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Scored, Verdict, Winner
from unified_reward.io.vote_rows import win_share
from unified_reward.judges.card import Calibration, CardedJudge
from unified_reward.judges.model_judge import Replies


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
            share = win_share(example.raters)
            outcome = WIN_SHARES[target.winner] if share is None else share
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


@dataclass(frozen=True)
class AnsweredExamples:
    """Labelled examples with the replies of a judge, which are decoded at many calibrations."""

    judge: CardedJudge
    examples: Sequence[Example]
    replies: Sequence[Replies]
    """One entry per example."""

    @classmethod
    def ask(
        cls, judge: CardedJudge, examples: Sequence[Example], on_progress: Progress | None = None
    ) -> AnsweredExamples:
        """Ask the judge about every example once, comparisons in both orders."""
        samples = [example.sample for example in examples]
        return cls(judge, examples, judge.query(samples, on_progress=on_progress))

    def select(self, keep: Sequence[bool]) -> AnsweredExamples:
        """Select some of the examples."""
        chosen = [i for i, is_kept in enumerate(keep) if is_kept]
        examples = [self.examples[i] for i in chosen]
        return AnsweredExamples(self.judge, examples, [self.replies[i] for i in chosen])

    def of_form(self, form: Form) -> AnsweredExamples:
        """Select the examples of one form."""
        return self.select([example.sample.form == form for example in self.examples])

    def decode(self, calibration: Calibration) -> list[Verdict]:
        """Verdicts at a calibration."""
        samples = [example.sample for example in self.examples]
        return self.judge.decode(samples, self.replies, calibration)

    def predict(self, calibration: Calibration) -> Predictions:
        """Predictions at a calibration, with their outcomes."""
        return collect_predictions(self.examples, self.decode(calibration))


def fit_calibration(judge: CardedJudge, examples: Sequence[Example]) -> Calibration:
    """Ask a judge about examples, and fit its temperatures and its margin for ties.

    Args:
        judge: The judge; the calibration of its own card is ignored.
        examples: Labelled comparisons, scores or both, that it was not trained on. Without examples
            of a form, or of verdicts that depend on it, its temperature is 1.

    Returns:
        The calibration, and the number of examples with a label and a readable verdict.

    Raises:
        DataError: There are no examples, or no readable verdict on those of a form.
    """
    return fit_answered(AnsweredExamples.ask(judge, examples))


def fit_answered(answered: AnsweredExamples) -> Calibration:
    """Fit the temperatures, then the margin for ties; see `fit_calibration`.

    A temperature minimises the cross-entropy of the predictions with the outcomes. The margin is
    that of `tie_threshold` where it pays, see `fit_tie_margin`.
    """
    if not answered.examples:
        raise DataError("no examples to calibrate on")
    temperatures: dict[Form, float] = {"compare": 1.0, "score": 1.0}
    n = 0
    for form in temperatures:
        of_form = answered.of_form(form)
        if not of_form.examples:
            continue
        n_of_form = len(of_form.predict(Calibration()).predicted)
        if not n_of_form:
            raise DataError(f"no readable verdict of form {form!r} to calibrate on")
        n += n_of_form
        temperatures[form] = _fit_temperature(of_form)
    calibration = Calibration(temperatures["compare"], temperatures["score"], n=n)
    compared = answered.of_form("compare")
    margin = fit_tie_margin(compared.examples, compared.decode(calibration))
    return replace(calibration, tie_margin=margin)


def _fit_temperature(answered: AnsweredExamples) -> float:
    with extra("bench"):
        from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        predictions = answered.predict(Calibration(temperature, temperature))
        p, observed = predictions.predicted.clip(_EPSILON, 1 - _EPSILON), predictions.observed
        return float(-(observed * np.log(p) + (1 - observed) * np.log1p(-p)).mean())

    bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
    # Not where only text is read, which no temperature changes.
    return round(float(np.exp(best.x)), 4) if best.fun < loss(0.0) else 1.0


def fit_tie_margin(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> float:
    """Find the lead up to which a comparison should be a tie too, for most right outcomes.

    The threshold is that of `metrics.tie_threshold` (Deutsch et al. 2023, arXiv:2305.14324) over
    the comparisons whose outcome a margin can change. It is used only if it raises the share of
    right outcomes on items it is not chosen on: each half of the prompts at the threshold of the
    other half, with a 95 % interval of the gain above 0.

    Args:
        examples: Labelled comparisons.
        verdicts: Verdict on each; those that are no preference are left out.

    Returns:
        The margin, in [0, 0.5]; 0 where none pays.
    """
    judged: list[tuple[Preferred, Winner, str]] = [
        (verdict, example.target.winner, example.sample.prompt)
        for example, verdict in zip(examples, verdicts, strict=True)
        if isinstance(verdict, Preferred) and example.target.winner
    ]
    margin = _tie_threshold(judged)
    if not margin:
        return 0.0
    clusters = [prompt for *_, prompt in judged]
    halves = prompt_halves(clusters)
    limits = [
        _tie_threshold([each for each, half in zip(judged, halves, strict=True) if half != fitted])
        for fitted in (0, 1)
    ]
    gains = [
        float(call_ties(verdict, limits[half]).winner == label) - float(verdict.winner == label)
        for (verdict, label, _), half in zip(judged, halves, strict=True)
    ]
    return margin if mean_interval(gains, clusters)[0] > 0 else 0.0


def _tie_threshold(judged: Sequence[tuple[Preferred, Winner, str]]) -> float:
    """Threshold over the comparisons that can become ties; 0 without any."""
    leads = [verdict.p_first - verdict.p_second for verdict, *_ in judged]
    movable = [
        i
        for i, (verdict, *_) in enumerate(judged)
        if verdict.winner != "tie" and abs(leads[i]) <= MAX_TIE_MARGIN
    ]
    return tie_threshold([leads[i] for i in movable], [judged[i][1] for i in movable])


def prompt_halves(prompts: Sequence[str]) -> list[int]:
    """Half of each item, 0 or 1, by a hash of its prompt; each has half of the prompts."""
    distinct = sorted({*prompts}, key=lambda one: sha256(one.encode(errors="replace")).digest())
    halves = {prompt: i % 2 for i, prompt in enumerate(distinct)}
    return [halves[prompt] for prompt in prompts]


class Recalibration(NamedTuple):
    """New calibration of a judge, and its figures on examples it was not fitted on."""

    calibration: Calibration
    """Fitted on all examples; as in the judge's card for a form without any."""
    before: dict[str, dict[str, Metric]]
    """Figures by form at the calibration of the judge's card."""
    after: dict[str, dict[str, Metric]]
    """Figures of each half of the prompts at the calibration fitted on the other half."""
    verdicts: list[Verdict]
    """Verdict on each example at the new calibration."""


def recalibrate(
    judge: CardedJudge, examples: Sequence[Example], on_progress: Progress | None = None
) -> Recalibration:
    """Fit a judge's calibration, and measure it before and after.

    Args:
        judge: The judge.
        examples: Labelled comparisons, scores or both, of at least two prompts, that it was not
            trained on.
        on_progress: Called with the number of examples just judged.

    Raises:
        DataError: There are too few examples, or no readable verdict on those of a form.
    """
    halves = prompt_halves([example.sample.prompt for example in examples])
    if len({*halves}) < 2:
        raise DataError("examples to calibrate on are of at least two prompts, to measure on one")
    answered = AnsweredExamples.ask(judge, examples, on_progress)
    known = judge.card.calibration or Calibration()
    fitted = _refit(answered, known)
    before = answered.decode(known)
    after = before
    for half in (0, 1):
        calibration = _refit(answered.select([other != half for other in halves]), known)
        decoded = answered.decode(calibration)
        after = [
            new if other == half else old
            for new, old, other in zip(decoded, after, halves, strict=True)
        ]
    return Recalibration(
        fitted, _figures(examples, before), _figures(examples, after), answered.decode(fitted)
    )


def _refit(answered: AnsweredExamples, known: Calibration) -> Calibration:
    """Fit a calibration that stays as it is for a form without examples."""
    fitted = fit_answered(answered)
    forms = {example.sample.form for example in answered.examples}
    if "compare" not in forms:
        fitted = replace(fitted, compare=known.compare, tie_margin=known.tie_margin)
    return fitted if "score" in forms else replace(fitted, score=known.score)


def _figures(
    examples: Sequence[Example], verdicts: Sequence[Verdict]
) -> dict[str, dict[str, Metric]]:
    """Calibration by form, and the share of right outcomes of comparisons."""
    figures: dict[str, dict[str, Metric]] = {}
    forms: tuple[Form, ...] = ("compare", "score")
    for form in forms:
        judged = [
            (example, verdict)
            for example, verdict in zip(examples, verdicts, strict=True)
            if example.sample.form == form and (form == "score" or example.target.winner)
        ]
        if not judged:
            continue
        of_form, given = zip(*judged, strict=True)
        predictions = collect_predictions(of_form, given)
        figures[form] = {
            "calibration_error": calibration_error(predictions),
            "brier_score": brier_score(predictions),
        }
        if form == "compare":
            figures[form]["three_way_accuracy"] = three_way_accuracy(
                given,
                [cast("Winner", example.target.winner) for example in of_form],
                clusters=[example.sample.prompt for example in of_form],
            )
    return figures
