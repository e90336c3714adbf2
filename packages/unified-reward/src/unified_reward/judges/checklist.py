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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.probability import compare_scored
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Scale, Score, Scored, Unparsed, Verdict
from unified_reward.judges.model_judge import DecodedMedia, ModelJudge, Replies, decoded
from unified_reward.judges.scalar import UNIT
from unified_reward.prompts.packs import installed_wordings, published_prompts
from unified_reward.scorers.card import ScoreCard


FRAMES = 8
_WORDS = ("yes", "no", "Yes", "No")
_NOTE = "recalibrated, not the published model"


@dataclass(frozen=True)
class Question:
    """One question of a checklist."""

    text: str
    """``[[prompt]]`` stands for the caption."""
    weight: float
    mask: int | None = None
    """Index of the question that must be answered yes for this one to count."""


@dataclass(frozen=True)
class Checklist:
    """Questions, and the formula that makes a score of their answers.

    ``score = share * sum_i weight_i * mask_i * a_i`` with ``a_i`` from -1 for no to 1 for yes, and
    the chance of yes in place of ``a_i`` for the questions of ``chances``.
    """

    card: ScoreCard
    questions: Sequence[Question]
    share: float = 1.0
    chances: frozenset[int] = frozenset()
    """Indices of questions that count from 0 for no to 1 for yes."""

    def score(self, chances: Sequence[float]) -> float:
        """The score, given the chance that each question is answered yes."""
        total = 0.0
        for i, (question, chance) in enumerate(zip(self.questions, chances, strict=True)):
            value = chance if i in self.chances else 2 * chance - 1
            mask = 1.0 if question.mask is None else chances[question.mask]
            total += question.weight * mask * value
        return self.share * total


_IMAGE_WEIGHTS = (
    *(0.06884638950983572, 0.10183602465324491, 0.13065931709231515, 0.06950163043882204),
    *(0.055586526962739594, 0.043667179730282585, 0.21147753430256036, 0.5828223926159606),
    *(0.050970475125495074, 0.06795294324813127, 0.06490948537019271, 0.3247595671294795),
    *(0.07562963582524587, 0.07747325725869728, 0.04220313071020716, 0.0514756964680454),
    *(0.010243704179493112, 0.01737524212080004, 0.11455097588617139, 0.0824178853123111),
    *(0.05534874470299955, 0.03004180339398678, 0.03136553593758656, 0.07665491897864558),
    *(0.07187632290686215, 0.012129902293749316, 0.015129688742038013),
)
"""Weights of questions 3 to 29; 0 to 2 ask whether a body, a face, hands are visible."""
_ALIGNED = 2.3542882631150923
_MASKS = {**dict.fromkeys((22, 23, 24, 28, 29), 0), 25: 1, 26: 1, 27: 2}
_VIDEO_WEIGHTS = (
    *(0.9543901856422174, 0.25239747290239256, 1.141818673357406, 0.03495652038170829),
    *(0.025237463294006605, 0.12600844108184325, 0.03221505988621183, 0.16286819641189937),
    *(0.21673935360893115, 0.01970324496671629, 0.13604019362894557, 0.09647134683834487),
    *(0.15490927135496332, 0.1294164598219855, 0.09891696198970226, 0.18839328668539077),
    *(0.1844335421380767, 0.2635526157239052, 0.11168980468489233, 0.05173789659242723),
    *(0.02562797122879315, 0.4389890596048526, 0.26857694964769424, 0.42925171836383774),
    *(0.00846154228462919, 0.12757277121689847, 0.05798205026065391, 0.1446334304609205),
    0.39418111694677266,
)
_CARD = ScoreCard(
    name="checklist-image",
    system="VisionReward's checklist of images",
    tasks=(Task.IMAGE_GENERATION,),
    paper="2412.21059",
    weights=("any vision-language model", "questions: github.com/THUDM/VisionReward"),
    values=f"weighted answers, -2.537 to 4.891; {_NOTE}",
    overall="the published weights; whether the caption is shown is asked of the same model, where "
    "the authors ask another (VQAScore)",
    scale=Scale(-sum(_IMAGE_WEIGHTS), sum(_IMAGE_WEIGHTS) + _ALIGNED),
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
    scale=Scale(-sum(_VIDEO_WEIGHTS) / 29, sum(_VIDEO_WEIGHTS) / 29),
    frames=f"{FRAMES}, evenly from first to last, where the published model sees one a second",
    wording=("VISIONREWARD-VIDEO",),
)
CARDS = {card.name: card for card in (_CARD, _VIDEO_CARD)}


def visionreward(name: str) -> Checklist:
    """A checklist of VisionReward with the questions that were imported.

    Raises:
        ConfigError: The questions are not imported.
    """
    card = CARDS[name]
    wording = installed_wordings().get(card.wording[0])
    if wording is None:
        raise ConfigError(
            f"the questions of {name} are not part of this package: run "
            f"{published_prompts()[card.wording[0]].hint}"
        )
    # Published code strips the questions about images; those about videos keep their line ends.
    texts = wording.text.splitlines(keepends=Task.VIDEO_GENERATION in card.tasks)
    if Task.VIDEO_GENERATION in card.tasks:
        weighted = [Question(t, w) for t, w in zip(texts, _VIDEO_WEIGHTS, strict=True)]
        return Checklist(card, weighted, share=1 / len(weighted))
    weights = (0.0, 0.0, 0.0, *_IMAGE_WEIGHTS)
    questions = [
        Question(text.strip(), weight, _MASKS.get(i))
        for i, (text, weight) in enumerate(zip(texts, weights, strict=True))
    ]
    questions.append(Question('Does this picture show "[[prompt]]"?', _ALIGNED))
    return Checklist(card, questions, chances=frozenset({len(questions) - 1}))


class ChecklistJudge(ModelJudge):
    """A checklist put to a model; its questions share one opened image, encoded once."""

    family = ""
    order_free = True

    def __init__(self, checklist: Checklist, model: Model) -> None:
        self.name = f"{checklist.card.name}:{model.name}"
        self.card = checklist.card
        self._checklist = checklist
        self._model = model

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
        return self._model.generate(requests)


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
