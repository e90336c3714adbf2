"""Weighted yes-or-no questions, put to any vision-language model.

VisionReward (Xu et al. 2024, arXiv:2412.21059) puts some thirty questions to a model of its own and
weighs the answers. Here the same questions and weights go to any model, which the weights were not
fitted to: the scores are not those of the published model, and nobody has calibrated them. An
answer that is neither yes nor no leaves the candidate unparsed; the published code counts it as no,
so that a model that answers nothing gets a plausible number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.probability import compare_scored
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Score, Scored, Unparsed, Verdict
from unified_reward.judges.model_judge import DecodedMedia, ModelJudge, Replies, decoded
from unified_reward.judges.scalar import UNIT
from unified_reward.scorers.card import ScoreCard, describe_card
from unified_reward.scorers.checklists import IMAGE_SCALE, VIDEO_SCALE, Checklist


FRAMES = 8
_WORDS = ("yes", "no", "Yes", "No")
_NOTE = "recalibrated, not the published model"


_CARD = ScoreCard(
    name="checklist-image",
    system="VisionReward's checklist of images",
    tasks=(Task.IMAGE_GENERATION,),
    paper="2412.21059",
    weights=("any vision-language model", "questions: github.com/THUDM/VisionReward"),
    values=f"weighted answers, -2.537 to 4.891; {_NOTE}",
    overall="the published weights; whether the caption is shown is asked of the same model, where "
    "the authors ask another (VQAScore)",
    scale=IMAGE_SCALE,
    wording=("VISIONREWARD-IMAGE",),
    code_licence="Apache-2.0",
    weights_licence="of the model that is asked",
    deviations=(
        "any model is asked, in its own chat turns",
        "the probability of yes counts where the model gives it, where published answers are -1 or "
        "1",
        "an answer that is neither leaves the candidate unparsed; published code counts it as no",
    ),
    verified=("weights, masks and range against the published ones, by hand",),
    open_questions=("how well the weights fit another model",),
)
_VIDEO_CARD = replace(
    _CARD,
    name="checklist-video",
    system="VisionReward's checklist of videos",
    tasks=(Task.VIDEO_GENERATION,),
    values=f"mean of weighted answers, -0.2165 to 0.2165; {_NOTE}",
    overall="the published weights",
    scale=VIDEO_SCALE,
    frames=f"{FRAMES}, evenly from first to last, where the published model sees one a second",
    wording=("VISIONREWARD-VIDEO",),
)
CARDS = {card.name: card for card in (_CARD, _VIDEO_CARD)}


class ChecklistJudge(ModelJudge):
    """A checklist put to a model; its questions share one opened image, encoded once."""

    family = ""
    order_free = True

    def __init__(self, checklist: Checklist, model: Model) -> None:
        self.name = f"{checklist.card.name}:{model.name}"
        self.card = checklist.card
        self._checklist = checklist
        self.model = model

    def describe(self) -> dict[str, Any]:
        """Facts about the checklist and the model; see `BaseJudge.describe`."""
        questions = (question.text.strip() for question in self._checklist.questions)
        aspects = dict.fromkeys(questions, UNIT)
        return super().describe() | {"kind": "checklist", **describe_card(self.card, aspects)}

    def decode(self, samples: Sequence[Sample], replies: Sequence[Replies]) -> list[Verdict]:
        """Verdicts from the answers to all questions about each candidate."""
        return [
            reply
            if isinstance(reply, Failed)
            else self.verdict_or_failed(partial(self._verdict, reply))
            for _, reply in zip(samples, replies, strict=True)
        ]

    def _verdict(self, answers: Sequence[Answer | Failed | Unparsed]) -> Verdict:
        n = len(self._checklist.questions)
        scored: list[Scored] = []
        for start in range(0, len(answers), n):
            verdict = self._score(answers[start : start + n])
            if not isinstance(verdict, Scored):
                return verdict
            scored.append(verdict)
        if len(scored) == 1:
            return scored[0]
        return compare_scored(scored[0], scored[1], self.card.temperature)

    def _score(self, answers: Sequence[Answer | Failed | Unparsed]) -> Verdict:
        chances: list[float] = []
        unread: list[str] = []
        for answer in answers:
            if not isinstance(answer, Answer):
                return answer
            chance = chance_of_yes(answer)
            chances.append(0.0 if chance is None else chance)
            unread += [answer.text] if chance is None else []
        if unread:
            reason = f"{len(unread)} of {len(answers)} answers are neither yes nor no"
            return Unparsed(reason, unread[0])
        names = (question.text.strip() for question in self._checklist.questions)
        aspects = {name: Score(chance, UNIT) for name, chance in zip(names, chances, strict=True)}
        score = Score(self._checklist.score(chances), self.card.scale)
        notes = dict.fromkeys(note for a in answers if isinstance(a, Answer) for note in a.notes)
        return Scored(score, aspects, _NOTE, tuple(notes))

    def _decode_medium(self, medium: Image | Video) -> Sequence[Any]:
        if isinstance(medium, Video):
            return media.sample_frames(medium, FRAMES).images()
        return [media.open_image(medium)]

    def _requests(self, sample: Sample, orders: int, opened: DecodedMedia) -> list[Request]:
        (task,) = self.card.tasks
        kind = Video if task is Task.VIDEO_GENERATION else Image
        requests: list[Request] = []
        for candidate in sample.candidates:
            if sample.task is not task or not isinstance(candidate, kind):
                raise DataError(f"{self.card.name} scores {task.value}, not {sample.task.value}")
            images = decoded(candidate, opened, self._decode_medium)
            requests += [
                Request((*images, question.text.replace("[[prompt]]", sample.prompt)), _WORDS)
                for question in self._checklist.questions
            ]
        return requests

    def _replies(self, requests: Sequence[Request]) -> Sequence[Answer | Failed | Unparsed]:
        return self.model.generate(requests)


def chance_of_yes(answer: Answer) -> float | None:
    """Probability of yes rather than no; from text, 1 or 0 by its first word, else None.

    >>> chance_of_yes(Answer("Yes, it is.")), chance_of_yes(Answer("There is a cat."))
    (1.0, None)
    """
    if answer.choice_logprobs is not None:
        top = max(answer.choice_logprobs)
        shares = [math.exp(one - top) for one in answer.choice_logprobs]
        return (shares[0] + shares[2]) / sum(shares)
    text = answer.text.strip().lower()
    return next((value for word, value in (("yes", 1.0), ("no", 0.0)) if _begins(text, word)), None)


def _begins(text: str, word: str) -> bool:
    return text.startswith(word) and not text[len(word) : len(word) + 1].isalpha()
