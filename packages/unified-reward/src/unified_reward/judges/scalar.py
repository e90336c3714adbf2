"""The scalar judge: each candidate is scored independently, and scores make comparisons.

It takes the same samples and gives the same verdicts as a generative judge; no order can bias it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from unified_reward import prompts
from unified_reward.core.base_judge import describe_task
from unified_reward.core.errors import ConfigError
from unified_reward.core.probability import shrink, sigmoid
from unified_reward.core.requests import Request, ValueEstimate
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Verdict
from unified_reward.judges.card import Calibration, Card, CardedJudge, Head


UNIT = Scale(0.0, 1.0)


class ValueModel(Protocol):
    """A model that estimates values of requests."""

    name: str

    def values(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        """One estimate per request: same length, same order."""
        ...


class ScalarJudge(CardedJudge):
    """A judge over a model with a value head; a second order changes nothing."""

    order_free = True

    def __init__(self, model: ValueModel, card: Card) -> None:
        if card.head is None:
            raise ConfigError("the card of a scalar judge describes its head")
        self.name = model.name
        self.family = card.family
        self.card = card
        self._head = card.head
        self.model = model

    def describe(self) -> dict[str, Any]:
        """Facts about the judge, with the tasks of its family; see `BaseJudge.describe`."""
        aspects = dict.fromkeys(self._head.aspects, UNIT)
        tasks = {
            task.value: describe_task(("score", "compare"), UNIT, aspects)
            for task, form in prompts.templates(self.family)
            if form == "score"
        }
        return super().describe() | {"tasks": tasks, "values": "logistic of a value in log-odds"}

    def _questions(self, sample: Sample, orders: int) -> list[Sample]:
        return sample.split()

    def _replies(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        return self.model.values(requests)

    def _verdict(
        self, sample: Sample, replies: Sequence[ValueEstimate | Failed], calibration: Calibration
    ) -> Verdict:
        estimates: list[ValueEstimate] = []
        for reply in replies:
            if isinstance(reply, Failed):
                return reply
            estimates.append(reply)
        if sample.form == "score":
            return score_estimate(estimates[0], self._head, temperature=calibration.score)
        first, second = estimates
        return compare_estimates(first, second, self._head, temperature=calibration.compare)


def score_estimate(estimate: ValueEstimate, head: Head, *, temperature: float = 1.0) -> Scored:
    """Scores in [0, 1] from an estimate.

    A value ``m`` with standard deviation ``s`` becomes the mean of ``sigmoid`` over its normal
    distribution, see `core.probability.shrink`, and its deviation ``s`` times the slope there.

    >>> score_estimate(ValueEstimate((0.0,)), Head()).score
    Score(value=0.5, scale=Scale(low=0.0, high=1.0, step=None), sigma=None)
    """
    scores: list[Score] = []
    for i, mean in enumerate(estimate.means):
        sigma = estimate.sigmas[i] if estimate.sigmas else 0.0
        value = sigmoid(shrink(mean, sigma**2) / temperature)
        spread = sigma / temperature * value * (1 - value) if estimate.sigmas else None
        scores.append(Score(value, UNIT, spread))
    return Scored(scores[0], dict(zip(head.aspects, scores[1:], strict=True)))


def compare_estimates(
    first: ValueEstimate, second: ValueEstimate, head: Head, *, temperature: float = 1.0
) -> Preferred:
    """A comparison from two estimates: Bradley-Terry, or with ties after Rao and Kupper.

    ``P(first) = sigmoid(d - e)`` and ``P(second) = sigmoid(-d - e)`` for the difference ``d`` of
    the values and the margin ``e`` (Rao and Kupper 1967, doi:10.2307/2282923); 0 without ties.

    >>> same = ValueEstimate((1.0,))
    >>> compare_estimates(same, same, Head(tie_margin=1.0)).winner
    'tie'
    """
    differences: list[float] = []
    for i in range(len(first.means)):
        variance = sum(estimate.sigmas[i] ** 2 for estimate in (first, second) if estimate.sigmas)
        differences.append(shrink(first.means[i] - second.means[i], variance) / temperature)
    margin = (head.tie_margin or 0.0) / temperature
    p_first, p_second = sigmoid(differences[0] - margin), sigmoid(-differences[0] - margin)
    aspects: Mapping[str, float] = {
        name: sigmoid(difference)
        for name, difference in zip(head.aspects, differences[1:], strict=True)
    }
    return Preferred(p_first, max(0.0, 1 - (p_first + p_second)), p_second, aspects)
