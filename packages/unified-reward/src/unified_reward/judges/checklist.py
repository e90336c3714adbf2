"""Yes-or-no questions with weights, asked of any vision-language model.

VisionReward (Xu et al. 2024, arXiv:2412.21059) asks a model of its own some thirty questions and
weighs the answers. Here the same questions and weights go to whatever model is at hand, which the
weights were not fitted to: what comes out is a checklist of one's own, recalibrated by nobody, and
not the published model. An answer that is neither yes nor no leaves the candidate unparsed; the
published code counts it as no, so that a model that says nothing gets a plausible number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Scale, Score, Scored, Unparsed, Verdict
from unified_reward.prompts.packs import installed_wordings, published_prompts
from unified_reward.scorers.base import preferred
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
    """Place of the question that must be answered yes for this one to count."""


@dataclass(frozen=True)
class Checklist:
    """Questions, and how their answers become a score.

    ``score = share * sum_i weight_i * mask_i * a_i`` with ``a_i`` from -1 for no to 1 for yes, and
    the chance of yes in place of ``a_i`` for the questions of ``chances``.
    """

    card: ScoreCard
    questions: Sequence[Question]
    share: float = 1.0
    chances: frozenset[int] = frozenset()
    """Places of questions that count from 0 for no to 1 for yes."""

    def score(self, chances: Sequence[float]) -> float:
        """The score, given the chance that each question is answered yes."""
        total = 0.0
        for i, (question, chance) in enumerate(zip(self.questions, chances, strict=True)):
            said = chance if i in self.chances else 2 * chance - 1
            seen = 1.0 if question.mask is None else chances[question.mask]
            total += question.weight * seen * said
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
"""Of questions 3 to 29; 0 to 2 ask whether a body, a face, hands are seen."""
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
    system="VisionReward's checklist of pictures",
    task=Task.IMAGE_GENERATION,
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
        "the probability of yes counts where the model tells it, where published answers are -1 or "
        "1",
        "an answer that is neither leaves the candidate unparsed; published code counts it as no",
    ),
    verified=("weights, masks and range against the published ones, by hand",),
    open_questions=("how well the weights fit another model",),
)
_CLIP_CARD = replace(
    _CARD,
    name="checklist-video",
    system="VisionReward's checklist of clips",
    task=Task.VIDEO_GENERATION,
    values=f"mean of weighted answers, -0.2165 to 0.2165; {_NOTE}",
    overall="the published weights",
    scale=Scale(-sum(_VIDEO_WEIGHTS) / 29, sum(_VIDEO_WEIGHTS) / 29),
    frames=f"{FRAMES}, evenly from first to last, where the published model sees one a second",
    wording=("VISIONREWARD-VIDEO",),
)
CARDS = {one.name: one for one in (_CARD, _CLIP_CARD)}


def visionreward(name: str) -> Checklist:
    """A checklist of VisionReward, its questions from what was imported.

    Raises:
        ConfigError: They are not imported.
    """
    card = CARDS[name]
    wording = installed_wordings().get(card.wording[0])
    if wording is None:
        raise ConfigError(
            f"the questions of {name} are not part of this package: run "
            f"{published_prompts()[card.wording[0]].hint}"
        )
    # Published code strips the questions about pictures; those about clips keep their line ends.
    texts = wording.text.splitlines(keepends=card.task is Task.VIDEO_GENERATION)
    if card.task is Task.VIDEO_GENERATION:
        weighed = [Question(t, w) for t, w in zip(texts, _VIDEO_WEIGHTS, strict=True)]
        return Checklist(card, weighed, share=1 / len(weighed))
    weights = (0.0, 0.0, 0.0, *_IMAGE_WEIGHTS)
    asked = [
        Question(text.strip(), weight, _MASKS.get(i))
        for i, (text, weight) in enumerate(zip(texts, weights, strict=True))
    ]
    asked.append(Question('Does this picture show "[[prompt]]"?', _ALIGNED))
    return Checklist(card, asked, chances=frozenset({len(asked) - 1}))


class ChecklistJudge(BaseJudge):
    """A checklist asked of a model; its questions share one opened picture, encoded once."""

    family = ""
    order_free = True

    def __init__(self, checklist: Checklist, model: Model) -> None:
        self.name = f"{checklist.card.name}:{model.name}"
        self.card = checklist.card
        self._checklist = checklist
        self._model = model

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Judge every sample; see ``BaseJudge.ask``. A second order changes nothing."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        read: list[Scored] = []
        for candidate in sample.candidates:
            one = self._scored(replace(sample, candidates=(candidate,)))
            if not isinstance(one, Scored):
                return one
            read.append(one)
        return read[0] if len(read) == 1 else preferred(read[0], read[1], self.card.temperature)

    def _scored(self, sample: Sample) -> Verdict:
        try:
            pictures = self._pictures(sample)
        except (MediaError, DataError) as error:
            return Failed(str(error), error)
        replies = self._model.generate(
            [
                Request((*pictures, one.text.replace("[[prompt]]", sample.prompt)), _WORDS)
                for one in self._checklist.questions
            ]
        )
        chances: list[float] = []
        unread: list[str] = []
        for reply in replies:
            if isinstance(reply, Failed):
                return reply
            chance = chance_of_yes(reply)
            chances.append(0.0 if chance is None else chance)
            unread += [reply.text] if chance is None else []
        if unread:
            told = f"{len(unread)} of {len(replies)} answers are neither yes nor no"
            return Unparsed(told, unread[0])
        names = (question.text.strip() for question in self._checklist.questions)
        unit = Scale(0.0, 1.0)
        aspects = {name: Score(one, unit) for name, one in zip(names, chances, strict=True)}
        score = Score(self._checklist.score(chances), self.card.scale)
        return Scored(score, aspects, _NOTE)

    def _pictures(self, sample: Sample) -> tuple[Any, ...]:
        (candidate,) = sample.candidates
        wanted = Video if self.card.task is Task.VIDEO_GENERATION else Image
        if sample.task is not self.card.task or not isinstance(candidate, wanted):
            raise DataError(
                f"{self.card.name} scores {self.card.task.value}, not {sample.task.value}"
            )
        if isinstance(candidate, Video):
            return media.sample_frames(candidate, FRAMES).images()
        return (media.open_image(candidate),)


def chance_of_yes(answer: Answer) -> float | None:
    """How likely a model says yes rather than no, or which of them its text begins with.

    >>> chance_of_yes(Answer("Yes, it is.")), chance_of_yes(Answer("There is a cat."))
    (1.0, None)
    """
    if answer.choice_logprobs is not None:
        top = max(answer.choice_logprobs)
        shares = [math.exp(one - top) for one in answer.choice_logprobs]
        return (shares[0] + shares[2]) / sum(shares)
    said = answer.text.strip().lower()
    return next((value for word, value in (("yes", 1.0), ("no", 0.0)) if _begins(said, word)), None)


def _begins(said: str, word: str) -> bool:
    return said.startswith(word) and not said[len(word) : len(word) + 1].isalpha()
