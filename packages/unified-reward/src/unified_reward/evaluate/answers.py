"""Verdict rows of a judge as the values of a reward; rows without a number are listed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Form, Image, Video
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.evaluate.estimates import Scores
from unified_reward.evaluate.outputs import Comparison, MissingOutput, ModelOutputs, RewardValues
from unified_reward.evaluate.questions import Question
from unified_reward.io.verdict_rows import read_verdict
from unified_reward.pairs.strategies import unreadable_reason


_FRAMES = 8
"""Frames of a video that are opened to see whether it is broken."""


@dataclass(frozen=True)
class RewardAnswers:
    """Everything that a judge answered in one evaluation."""

    values: RewardValues
    asked: frozenset[Form]
    """Forms of question that were put to the judge."""
    missing: tuple[MissingOutput, ...]
    """Outputs without a value; the model of a comparison that failed is ``A|B``."""
    n_unparsed: int
    """Questions, of all kinds, whose answer cannot be read."""
    n_failed: int
    """Questions that could not be asked."""
    scale: list[float | None] | None
    """Lowest and highest score; None where there are no scores, a side where it is open."""


def read_answers(
    name: str, rows: Iterable[Mapping[str, Any]], outputs: ModelOutputs, *, orders: int
) -> RewardAnswers:
    """Collect the values of a reward from the verdict rows about outputs.

    Args:
        name: Name of the reward.
        rows: Rows with ids as of `Question`; those about other outputs are left out.
        outputs: Outputs that were judged.
        orders: Orders in which each comparison was asked, 1 or 2.
    """
    verdicts: dict[Question, Verdict] = {}
    scale = None
    for row in rows:
        question = Question.parse(row["id"])
        if question and question.is_of(outputs):
            verdicts[question] = read_verdict(row)
            scale = row["scale"] or scale
    n_comparisons = sum(len(question.models) == 2 for question in verdicts)
    forms: dict[Form, int] = {"score": len(verdicts) - n_comparisons, "compare": n_comparisons}
    scores, sigma = _scores(verdicts, outputs) if forms["score"] else ({}, None)
    comparisons = (_comparison(*answer) for answer in verdicts.items())
    values = RewardValues(
        name,
        scores,
        tuple(comparison for comparison in comparisons if comparison),
        sigma,
        len(verdicts) + n_comparisons * (orders - 1),
    )
    return RewardAnswers(
        values,
        frozenset(form for form, n in forms.items() if n),
        _missing(name, verdicts, outputs),
        sum(isinstance(verdict, Unparsed) for verdict in verdicts.values()),
        sum(isinstance(verdict, Failed) for verdict in verdicts.values()),
        scale,
    )


def _value(verdict: Verdict) -> float | None:
    return verdict.score.value if isinstance(verdict, Scored) and verdict.score else None


def _scores(
    verdicts: Mapping[Question, Verdict], outputs: ModelOutputs
) -> tuple[Scores, float | None]:
    """Mean of the readings of each output, and the standard deviation of the readings, pooled."""
    readings: dict[Question, list[float]] = {}
    for question, verdict in verdicts.items():
        value = _value(verdict)
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


def _missing(
    name: str, verdicts: Mapping[Question, Verdict], outputs: ModelOutputs
) -> tuple[MissingOutput, ...]:
    """Outputs and comparisons without a number, each once; a reading that is read makes up."""
    error_of = cache(_error_of)
    read = {
        question._replace(reading=1)
        for question, verdict in verdicts.items()
        if _value(verdict) is not None
    }
    found: dict[MissingOutput, None] = {}
    for question, verdict in verdicts.items():
        if isinstance(verdict, Preferred) or question._replace(reading=1) in read:
            continue
        prompt = question.prompt
        broken = False
        for model in question.models if isinstance(verdict, Failed) else ():
            example = question._replace(models=(model,)).row(outputs).content
            reason = next(filter(None, map(error_of, example.media)), None)
            if reason:
                found[MissingOutput(model, prompt, reason, "broken", name)] = None
                broken = True
        if not broken:
            kind = "failed" if isinstance(verdict, Failed) else "unparsed"
            model, reason = "|".join(question.models), unreadable_reason(verdict)
            found[MissingOutput(model, prompt, reason, kind, name)] = None
    return tuple(found)


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
