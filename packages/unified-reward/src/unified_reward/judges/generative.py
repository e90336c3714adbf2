"""The generative judge: a model prompted by the templates of a family, in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unified_reward import prompts
from unified_reward.core.base_judge import describe_task
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.samples import Form, Sample
from unified_reward.core.verdicts import Failed, Preferred, Scale, Scored, Unparsed, Verdict
from unified_reward.judges.card import Calibration, Card, CardedJudge, build_requests
from unified_reward.judges.model_judge import DecodedMedia
from unified_reward.judges.scripted import ScriptedModel
from unified_reward.prompts.template import Template, mean_preference


_VALUES = "mean of the judge's distribution over the steps of the scale, else the number it states"


class GenerativeJudge(CardedJudge):
    """A judge over any model that answers in text, prompted by the templates of a family."""

    def __init__(self, model: Model, card: Card) -> None:
        self.name = model.name
        self.family = prompts.family(card.family).name
        self.card = card
        self.model = model

    def describe(self) -> dict[str, Any]:
        """Facts about the judge, with the tasks of its family; see `BaseJudge.describe`."""
        facts = super().describe() | {"tasks": self._tasks(), "values": _VALUES}
        if isinstance(self.model, ScriptedModel):
            facts |= {"kind": "scripted", "values": "a fixed rule, whatever is asked"}
        return facts

    def _tasks(self) -> dict[str, dict[str, Any]]:
        by_task: dict[str, dict[Form, Template]] = {}
        for (task, form), template in prompts.templates(self.family).items():
            by_task.setdefault(task.value, {})[form] = template
        return {task: _describe_task(templates) for task, templates in by_task.items()}

    def _questions(self, sample: Sample, orders: int) -> list[Sample]:
        return [sample, sample.swapped()][:orders] if sample.form == "compare" else [sample]

    def _requests(self, sample: Sample, orders: int, opened: DecodedMedia) -> list[Request]:
        return [
            request
            for question in self._questions(sample, orders)
            for request in build_requests(question, self.card, opened)
        ]

    def _replies(self, requests: Sequence[Request]) -> Sequence[Answer | Failed | Unparsed]:
        return self.model.generate(requests)

    def _verdict(
        self,
        sample: Sample,
        replies: Sequence[Answer | Failed | Unparsed],
        calibration: Calibration,
    ) -> Verdict:
        template = prompts.template(self.family, sample.task, sample.form)
        temperature = calibration.compare if sample.form == "compare" else calibration.score
        n = template.n_requests
        groups = [replies[i : i + n] for i in range(0, len(replies), n)]
        verdicts = [_decoded(template, group, temperature) for group in groups]
        return verdicts[0] if len(verdicts) == 1 else merge_orders(*verdicts)


def _describe_task(templates: Mapping[Form, Template]) -> dict[str, Any]:
    scale, aspects = None, dict[str, Scale]()
    if score := templates.get("score"):
        scale, aspects = score.scale, {one.name: one.scale for one in score.aspects}
    return describe_task(templates, scale, aspects)


def _decoded(
    template: Template, replies: Sequence[Answer | Failed | Unparsed], temperature: float
) -> Verdict:
    """The verdict of the answers to one sample's questions; the first reply that is none."""
    answers: list[Answer] = []
    for reply in replies:
        if not isinstance(reply, Answer):
            return reply
        answers.append(_calibrated(reply, temperature))
    notes = tuple(dict.fromkeys(note for answer in answers for note in answer.notes))
    return _noted(template.decode_all(answers), notes)


def _calibrated(answer: Answer, temperature: float) -> Answer:
    if temperature == 1:
        return answer
    return replace(
        answer,
        choice_logprobs=_divided(answer.choice_logprobs, temperature),
        place_logprobs=tuple(_divided(row, temperature) for row in answer.place_logprobs),
    )


def _divided(logprobs: tuple[float, ...] | None, temperature: float) -> tuple[float, ...] | None:
    return None if logprobs is None else tuple(min(p / temperature, 0.0) for p in logprobs)


def _noted(
    verdict: Scored | Preferred | Unparsed, notes: tuple[str, ...]
) -> Scored | Preferred | Unparsed:
    return verdict if isinstance(verdict, Unparsed) else replace(verdict, notes=notes)


def merge_orders(ab: Verdict, ba: Verdict) -> Verdict:
    """The mean of a verdict on (a, b) and the mirrored verdict on (b, a).

    If one order failed or cannot be parsed, so is the whole: half a comparison is none.

    >>> merge_orders(Preferred(0.9, 0.0, 0.1), Preferred(0.9, 0.0, 0.1)).winner
    'tie'
    """
    match ab, ba:
        case Preferred(), Preferred():
            both = (ab, ba.mirrored())
            notes = tuple(dict.fromkeys(ab.notes + ba.notes))
            return replace(mean_preference(both, text=ab.text), orders=both, notes=notes)
        case (Failed() as failure, _) | (_, Failed() as failure):
            return failure
        case (Unparsed() as unparsed, _) | (_, Unparsed() as unparsed):
            return unparsed
    raise TypeError("merge_orders takes verdicts on a comparison")
