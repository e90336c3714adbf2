"""EditScore (arXiv:2509.23909): two questions about an edit, and one score of both answers.

The first asks about source and edited image for success and preservation, the second about the
edited image alone for naturalness and artifacts, each from 0 to 25 as JSON. The score is the
geometric mean of the worse of each two, from 0 to 10; over several answers it is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Sample, Task
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored, Unparsed
from unified_reward.prompts.families.edit import AXES, POINTS, EditPointsTemplate
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.template import Family, OpenMedia, Template


FAMILY = Family("editscore", max_new_tokens=512)
QWEN3 = Family("editscore-qwen3", max_new_tokens=512)
TEN = Scale(0.0, 10.0)
_MOST = 25
_OF_TEN = 10 / _MOST
_QUALITY = tuple(Aspect(name, POINTS, name) for name in ("naturalness", "artifacts"))
_BETWEEN = "\n\n---\n\n"
"""Separates the two answers in the text of a verdict."""


@dataclass(frozen=True)
class _LabelledTemplate(EditPointsTemplate):
    """Points by axis, with ``<img1>: `` before each image, as Qwen2.5-VL judges were trained."""

    def _slots(self, sample: Sample, open_media: OpenMedia) -> Mapping[str, Sequence[object]]:
        slots = super()._slots(sample, open_media)
        media = slots["media"]
        labelled = [part for i, image in enumerate(media, 1) for part in (f"<img{i}>: ", image)]
        return {**slots, "media": labelled}


@dataclass(frozen=True)
class EditScoreTemplate(Template):
    """Template of two questions; ``prompt`` is that of the first."""

    parts: tuple[EditPointsTemplate, ...] = ()

    @property
    def n_requests(self) -> int:
        """Two."""
        return len(self.parts)

    def request(self, sample: Sample, open_media: OpenMedia) -> Request:
        """Refuse: there are two requests.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"family {self.family.name} asks {self.n_requests} questions about an edit; train in "
            "one with a single question, such as edit"
        )

    def requests(self, sample: Sample, open_media: OpenMedia) -> tuple[Request, ...]:
        """Requests of the questions, in order; see ``Template.request``."""
        return tuple(part.request(sample, open_media) for part in self.parts)

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write both answers; the score follows from their points."""
        return _BETWEEN.join(part.answer(verdict, rationale=rationale) for part in self.parts)

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read both answers and score them; if one cannot be read, so is the whole."""
        texts = text.split(_BETWEEN)
        if len(texts) != len(self.parts):
            return Unparsed(f"{len(texts)} answers, for {len(self.parts)} questions", text)
        return self._score(texts)

    def _score(self, texts: Sequence[str]) -> Scored | Unparsed:
        text = _BETWEEN.join(texts)
        points: dict[str, Score] = {}
        worst: list[float] = []
        for part, reply in zip(self.parts, texts, strict=True):
            read = part.parse(reply)
            if not isinstance(read, Scored):
                return Unparsed(read.reason if isinstance(read, Unparsed) else "", text)
            points |= read.aspects
            worst.append(min(score.value for score in read.aspects.values()))
        value = math.sqrt(math.prod(worst)) * _OF_TEN
        return Scored(Score(value, TEN), points, text)

    def decode_all(self, answers: Sequence[Answer]) -> Scored | Preferred | Unparsed:
        """Score the answers; further ones that were sampled are passes, averaged as published."""
        passes = zip(*((one.text, *one.votes) for one in answers), strict=False)
        verdicts = [self._score(texts) for texts in passes]
        scored = [one for one in verdicts if isinstance(one, Scored)]
        if len(scored) < 2:
            return scored[0] if scored else verdicts[0]
        values = [one.score.value for one in scored if one.score]
        aspects = {
            name: Score(_mean([one.aspects[name].value for one in scored]), POINTS)
            for name in scored[0].aspects
        }
        mean = _mean(values)
        sigma = math.sqrt(_mean([(value - mean) ** 2 for value in values]))
        return Scored(Score(mean, TEN, sigma), aspects, scored[0].text)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def editscore(family: Family, wordings: Mapping[str, str]) -> EditScoreTemplate:
    """Put the published pieces together, for points up to 25.

    Args:
        family: `FAMILY` for judges on Qwen2.5-VL, `QWEN3` for those on Qwen3-VL.
        wordings: Texts of ``ES-CONTEXT``, ``ES-EDIT``, ``ES-SC`` and ``ES-PQ``.
    """
    context, edit = wordings["ES-CONTEXT"], wordings["ES-EDIT"]
    success, quality = (wordings[name].replace("10", str(_MOST)) for name in ("ES-SC", "ES-PQ"))
    kind = EditPointsTemplate if family is QWEN3 else _LabelledTemplate
    task = Task.IMAGE_EDITING
    prompts = [f"⟪media⟫{context}\n{text}" for text in (f"{edit}\n{success}", quality)]
    parts = (
        kind(family, task, "score", prompts[0], aspects=AXES),
        kind(family, task, "score", prompts[1], aspects=_QUALITY, uses_context=False),
    )
    aspects = (*AXES, *_QUALITY)
    return EditScoreTemplate(
        family, task, "score", prompts[0], scale=TEN, aspects=aspects, parts=parts
    )
