"""The scalar judge: every candidate is read alone, and a comparison follows from two readings.

The same samples, verbs and verdicts as a judge that speaks; no order to be biased by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request, ValueEstimate
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Verdict
from unified_reward.judges.card import Calibration, Card, CardedJudge, Head


UNIT = Scale(0.0, 1.0)


class Values(Protocol):
    """What reads values from requests."""

    name: str

    def values(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        """A reading per request: same length, same order."""
        ...


class ScalarJudge(CardedJudge):
    """A model that gives each candidate a value, as a judge; a second order changes nothing."""

    def __init__(self, model: Values, card: Card) -> None:
        if card.head is None:
            raise ConfigError("the card of a scalar judge describes its head")
        self.name = model.name
        self.family = card.family
        self.card = card
        self._head = card.head
        self._model = model

    def _questions(self, sample: Sample, orders: int) -> list[Sample]:
        return alone(sample)

    def _replies(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        return self._model.values(requests)

    def _verdict(
        self, sample: Sample, replies: Sequence[ValueEstimate | Failed], calibration: Calibration
    ) -> Verdict:
        read: list[ValueEstimate] = []
        for one in replies:
            if isinstance(one, Failed):
                return one
            read.append(one)
        if sample.form == "score":
            return scored(read[0], self._head, temperature=calibration.score)
        return preferred(read[0], read[1], self._head, temperature=calibration.compare)


def alone(sample: Sample) -> list[Sample]:
    """Each candidate of a sample as a sample of its own."""
    return [replace(sample, candidates=(one,)) for one in sample.candidates]


def scored(reading: ValueEstimate, head: Head, *, temperature: float = 1.0) -> Scored:
    """A reading as scores in [0, 1].

    A value ``m`` with standard deviation ``s`` becomes the mean of ``sigmoid`` over its normal
    distribution, nearly ``sigmoid(m / sqrt(1 + pi s^2 / 8))`` (MacKay 1992,
    doi:10.1162/neco.1992.4.5.720), and its deviation ``s`` times the slope there.

    >>> scored(Reading((0.0,)), Head()).score
    Score(value=0.5, scale=Scale(low=0.0, high=1.0, step=None), sigma=None)
    """
    scores: list[Score] = []
    for i, mean in enumerate(reading.means):
        sigma = reading.sigmas[i] if reading.sigmas else 0.0
        value = _sigmoid(_narrowed(mean, sigma**2) / temperature)
        told = sigma / temperature * value * (1 - value) if reading.sigmas else None
        scores.append(Score(value, UNIT, told))
    return Scored(scores[0], dict(zip(head.aspects, scores[1:], strict=True)))


def preferred(
    first: ValueEstimate, second: ValueEstimate, head: Head, *, temperature: float = 1.0
) -> Preferred:
    """Two readings as a comparison: Bradley-Terry, or with ties after Rao and Kupper.

    ``P(first) = sigmoid(d - e)`` and ``P(second) = sigmoid(-d - e)`` for the difference ``d`` of
    the values and the margin ``e`` (Rao and Kupper 1967, doi:10.2307/2282923); 0 without ties.

    >>> preferred(Reading((1.0,)), Reading((1.0,)), Head(tie_margin=1.0)).winner
    'tie'
    """
    shares: list[float] = []
    for i in range(len(first.means)):
        spread = sum(one.sigmas[i] ** 2 for one in (first, second) if one.sigmas)
        shares.append(_narrowed(first.means[i] - second.means[i], spread) / temperature)
    margin = (head.tie_margin or 0.0) / temperature
    p_first, p_second = _sigmoid(shares[0] - margin), _sigmoid(-shares[0] - margin)
    aspects: Mapping[str, float] = {
        name: _sigmoid(share) for name, share in zip(head.aspects, shares[1:], strict=True)
    }
    return Preferred(p_first, max(0.0, 1 - (p_first + p_second)), p_second, aspects)


def _narrowed(mean: float, variance: float) -> float:
    return mean / math.sqrt(1 + math.pi * variance / 8)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
