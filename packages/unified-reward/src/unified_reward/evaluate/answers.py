"""Verdict rows of a judge as the values of a reward; rows without a number are listed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Form, Image, Video
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.evaluate.estimates import Scores
from unified_reward.evaluate.outputs import (
    Comparison,
    MissingOutput,
    ModelOutputs,
    Problem,
    RewardValues,
)
from unified_reward.evaluate.questions import Question
from unified_reward.io.verdict_rows import read_verdict
from unified_reward.pairs.strategies import unreadable_reason


_FRAMES = 8
"""Frames of a video that are opened to see whether it is broken."""


@dataclass(frozen=True)
class RewardAnswers:
    """Everything that a judge answered in one evaluation."""

    values: RewardValues
    verdicts: Mapping[Question, Verdict]
    scale: list[float | None] | None
    """Lowest and highest score; None where there are no scores, a side where it is open."""
    aspect: str = ""
    """Aspect whose scores the values are; empty for the overall score."""

    @property
    def aspects(self) -> list[str]:
        """Aspects that the judge scores instead of an overall score; empty where it gives one."""
        scored = [each for each in self.verdicts.values() if isinstance(each, Scored)]
        if any(each.score for each in scored):
            return []
        return [*dict.fromkeys(name for each in scored for name in each.aspects)]

    def asks(self, form: Form) -> bool:
        """True if questions of this form were put to the judge."""
        return any(question.form == form for question in self.verdicts)

    def count(self, kind: type[Unparsed] | type[Failed]) -> int:
        """Count the questions, of all kinds, that were not answered in this way."""
        return sum(isinstance(verdict, kind) for verdict in self.verdicts.values())

    def missing(self, outputs: ModelOutputs) -> list[MissingOutput]:
        """List outputs without a value, each once; a reading that can be read makes up for others.

        Media of questions that failed are opened, to see which of them are broken. The model of a
        comparison that failed for another reason is ``A|B``.
        """
        error_of = cache(_error_of)
        first = {question: question._replace(reading=1) for question in self.verdicts}
        read = {
            first[question]
            for question, verdict in self.verdicts.items()
            if _value(verdict, self.aspect) is not None
        }
        found: dict[MissingOutput, None] = {}
        for question, verdict in self.verdicts.items():
            if isinstance(verdict, Preferred) or first[question] in read:
                continue
            is_failed = isinstance(verdict, Failed)
            lost = _broken(question, outputs, error_of) if is_failed else {}
            if not lost:
                reason = unreadable_reason(verdict)
                if self.aspect and isinstance(verdict, Scored):
                    reason = f"no score for {self.aspect} in the answer"
                lost["|".join(question.models)] = reason, "failed" if is_failed else "unparsed"
            for model, (reason, kind) in lost.items():
                row = MissingOutput(model, question.prompt, reason, kind, self.values.name)
                found[row] = None
        return [*found]


def read_answers(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    outputs: ModelOutputs,
    *,
    orders: int,
    aspect: str = "",
) -> RewardAnswers:
    """Collect the values of a reward from the verdict rows about outputs.

    Args:
        name: Name of the reward.
        rows: Rows with ids as of `Question`; those about other outputs are left out.
        outputs: Outputs that were judged.
        orders: Orders in which each comparison was asked, 1 or 2.
        aspect: Aspect whose scores are taken; empty for the overall score.
    """
    verdicts: dict[Question, Verdict] = {}
    scale = None
    for row in rows:
        question = Question.parse(row["id"])
        if question and question.is_of(outputs):
            verdicts[question] = read_verdict(row)
            scale = scale if aspect else row["scale"] or scale
    is_scored = any(question.form == "score" for question in verdicts)
    scores, sigma = _scores(verdicts, outputs, aspect) if is_scored else ({}, None)
    comparisons = (_comparison(*answer) for answer in verdicts.items())
    calls = sum(orders if question.form == "compare" else 1 for question in verdicts)
    values = RewardValues(name, scores, tuple(filter(None, comparisons)), sigma, calls)
    return RewardAnswers(values, verdicts, scale, aspect)


def _value(verdict: Verdict, aspect: str) -> float | None:
    if not isinstance(verdict, Scored):
        return None
    score = verdict.aspects.get(aspect) if aspect else verdict.score
    return score.value if score else None


def _scores(
    verdicts: Mapping[Question, Verdict], outputs: ModelOutputs, aspect: str
) -> tuple[Scores, float | None]:
    """Mean of the readings of each output, and the standard deviation of the readings, pooled."""
    readings: dict[Question, list[float]] = {}
    for question, verdict in verdicts.items():
        value = _value(verdict, aspect)
        if value is not None:
            readings.setdefault(question._replace(reading=1), []).append(value)
    means = {question: sum(values) / len(values) for question, values in readings.items()}
    scores: dict[str, dict[str, tuple[float, ...]]] = {
        model: {
            prompt: tuple(
                means.get(Question((model,), prompt, place), math.nan)
                for place in range(len(candidates))
            )
            for prompt, candidates in by_prompt.items()
        }
        for model, by_prompt in outputs.outputs.items()
    }
    degrees = sum(len(values) - 1 for values in readings.values())
    squares = sum(float(np.var(values)) * len(values) for values in readings.values())
    return scores, math.sqrt(squares / degrees) if degrees else None


def _comparison(question: Question, verdict: Verdict) -> Comparison | None:
    if not isinstance(verdict, Preferred):
        return None
    orders = tuple(each.probability for each in verdict.orders)
    a, b = question.models
    return Comparison(question.prompt, a, b, verdict.probability, verdict.consistent, orders)


def _broken(
    question: Question, outputs: ModelOutputs, error_of: Callable[[Image | Video], str | None]
) -> dict[str, tuple[str, Problem]]:
    """Error, by model, of the first medium of its output or prompt that cannot be opened."""
    lost: dict[str, tuple[str, Problem]] = {}
    for model in question.models:
        media_of_model = question._replace(models=(model,)).example(outputs).media
        if reason := next(filter(None, map(error_of, media_of_model)), None):
            lost[model] = reason, "broken"
    return lost


def _error_of(medium: Image | Video) -> str | None:
    """Error of opening a medium, None where it can be opened."""
    try:
        if isinstance(medium, Image):
            media.open_image(medium)
        else:
            media.sample_frames(medium, _FRAMES)
    except MediaError as error:
        return str(error)
    return None
