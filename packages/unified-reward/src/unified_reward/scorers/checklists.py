"""Checklists of VisionReward (Xu et al. 2024, arXiv:2412.21059): weights, masks, and the score.

The questions are imported by their users. Knows nothing of the model that answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale
from unified_reward.prompts.packs import installed_wordings, published_prompts
from unified_reward.scorers.card import ScoreCard


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


IMAGE_WEIGHTS = (
    *(0.06884638950983572, 0.10183602465324491, 0.13065931709231515, 0.06950163043882204),
    *(0.055586526962739594, 0.043667179730282585, 0.21147753430256036, 0.5828223926159606),
    *(0.050970475125495074, 0.06795294324813127, 0.06490948537019271, 0.3247595671294795),
    *(0.07562963582524587, 0.07747325725869728, 0.04220313071020716, 0.0514756964680454),
    *(0.010243704179493112, 0.01737524212080004, 0.11455097588617139, 0.0824178853123111),
    *(0.05534874470299955, 0.03004180339398678, 0.03136553593758656, 0.07665491897864558),
    *(0.07187632290686215, 0.012129902293749316, 0.015129688742038013),
)
"""Weights of questions 3 to 29; 0 to 2 ask whether a body, a face, hands are visible."""
ALIGNED = 2.3542882631150923
_MASKS = {**dict.fromkeys((22, 23, 24, 28, 29), 0), 25: 1, 26: 1, 27: 2}
VIDEO_WEIGHTS = (
    *(0.9543901856422174, 0.25239747290239256, 1.141818673357406, 0.03495652038170829),
    *(0.025237463294006605, 0.12600844108184325, 0.03221505988621183, 0.16286819641189937),
    *(0.21673935360893115, 0.01970324496671629, 0.13604019362894557, 0.09647134683834487),
    *(0.15490927135496332, 0.1294164598219855, 0.09891696198970226, 0.18839328668539077),
    *(0.1844335421380767, 0.2635526157239052, 0.11168980468489233, 0.05173789659242723),
    *(0.02562797122879315, 0.4389890596048526, 0.26857694964769424, 0.42925171836383774),
    *(0.00846154228462919, 0.12757277121689847, 0.05798205026065391, 0.1446334304609205),
    0.39418111694677266,
)
IMAGE_SCALE = Scale(-sum(IMAGE_WEIGHTS), sum(IMAGE_WEIGHTS) + ALIGNED)
VIDEO_SCALE = Scale(-sum(VIDEO_WEIGHTS) / 29, sum(VIDEO_WEIGHTS) / 29)


def visionreward(card: ScoreCard) -> Checklist:
    """The checklist of the wording and task of a card; a last question is about the caption.

    Only images have that question. The authors put it to another model, VQAScore.

    Raises:
        ConfigError: The questions are not imported.
    """
    name = card.wording[0]
    wording = installed_wordings().get(name)
    if wording is None:
        raise ConfigError(
            f"the questions of {card.name} are not part of this package: run "
            f"{published_prompts()[name].hint}"
        )
    is_video = Task.VIDEO_GENERATION in card.tasks
    # Published code strips the questions about images; those about videos keep their line ends.
    texts = wording.text.splitlines(keepends=is_video)
    if is_video:
        weighted = [Question(t, w) for t, w in zip(texts, VIDEO_WEIGHTS, strict=True)]
        return Checklist(card, weighted, share=1 / len(weighted))
    weights = (0.0, 0.0, 0.0, *IMAGE_WEIGHTS)
    questions = [
        Question(text.strip(), weight, _MASKS.get(i))
        for i, (text, weight) in enumerate(zip(texts, weights, strict=True))
    ]
    questions.append(Question('Does this picture show "[[prompt]]"?', ALIGNED))
    return Checklist(card, questions, chances=frozenset({len(questions) - 1}))
