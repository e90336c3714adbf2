"""A judge that answers in text: a model asked by the templates of a family, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unified_reward import prompts
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.judges.card import Calibration, Card, CardedJudge
from unified_reward.prompts.template import mean_preference


if TYPE_CHECKING:
    pass


class GenerativeJudge(CardedJudge):
    """A model and a family: whatever answers text becomes a judge."""

    def __init__(self, model: Model, card: Card) -> None:
        self.name = model.name
        self.family = prompts.family(card.family).name
        self.card = card
        self.model = model

    def _questions(self, sample: Sample, orders: int) -> list[Sample]:
        return [sample, sample.swapped()][:orders] if sample.form == "compare" else [sample]

    def _replies(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        return self.model.generate(requests)

    def _verdict(
        self, sample: Sample, replies: Sequence[Answer | Failed], calibration: Calibration
    ) -> Verdict:
        template = prompts.template(self.family, sample.task, sample.form)
        temperature = calibration.compare if sample.form == "compare" else calibration.score
        read = [
            one if isinstance(one, Failed) else template.decode(_tempered(one, temperature))
            for one in replies
        ]
        return read[0] if len(read) == 1 else merge_orders(*read)


def _tempered(answer: Answer, temperature: float) -> Answer:
    if answer.choice_logprobs is None or temperature == 1:
        return answer
    return replace(answer, choice_logprobs=tuple(p / temperature for p in answer.choice_logprobs))


def merge_orders(ab: Verdict, ba: Verdict) -> Verdict:
    """The mean of a verdict on (a, b) and the mirrored verdict on (b, a).

    An order that could not be asked or read decides: one half of a comparison is none.

    >>> merge_orders(Preferred(0.9, 0.0, 0.1), Preferred(0.9, 0.0, 0.1)).winner
    'tie'
    """
    match ab, ba:
        case Preferred(), Preferred():
            both = (ab, ba.mirrored())
            return replace(mean_preference(both, text=ab.text), orders=both)
        case (Failed() as lost, _) | (_, Failed() as lost):
            return lost
        case (Unparsed() as lost, _) | (_, Unparsed() as lost):
            return lost
    raise TypeError("merge_orders takes verdicts on a comparison")
