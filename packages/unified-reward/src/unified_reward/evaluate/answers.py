"""Verdict rows of a judge as the values of a reward; rows without a number are listed."""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
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
from unified_reward.io.id_table import IdTable
from unified_reward.io.text import parse_json, read_json_lines, read_line, read_lines
from unified_reward.io.verdict_rows import read_verdict
from unified_reward.pairs.strategies import unreadable_reason


_FRAMES = 8
"""Frames of a video that are opened to see whether it is broken."""


@dataclass(frozen=True)
class RewardAnswers:
    """Answers of a judge in one evaluation: numbers, and every verdict without one."""

    values: RewardValues
    without_value: Mapping[Question, Verdict]
    """Questions that no number came of, by the order in which they were asked."""
    numbers: Mapping[tuple[str, ...], int]
    """Number of questions by model, or by pair of models."""
    aspects: list[str]
    """Aspects that the judge scores instead of an overall score; empty where it gives one."""
    scale: list[float | None] | None
    """Lowest and highest score; None where there are no scores, a side where it is open."""
    aspect: str = ""
    """Aspect whose scores the values are; empty for the overall score."""

    def asks(self, form: Form) -> bool:
        """True if questions of this form were put to the judge."""
        return any(len(models) == (1 if form == "score" else 2) for models in self.numbers)

    def count(self, kind: type[Unparsed] | type[Failed]) -> int:
        """Count the questions, of all kinds, that were not answered in this way."""
        return sum(isinstance(verdict, kind) for verdict in self.without_value.values())

    def missing(self, outputs: ModelOutputs) -> list[MissingOutput]:
        """List outputs without a value, each once; a reading that can be read makes up for others.

        Media of questions that failed are opened, to see which of them are broken. The model of a
        comparison that failed for another reason is ``A|B``.
        """
        error_of = cache(_error_of)
        found: dict[MissingOutput, None] = {}
        for question, verdict in self.without_value.items():
            if question.form == "score" and self._has_score(question):
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

    def _has_score(self, question: Question) -> bool:
        """True if another reading of the score could be read."""
        scores = self.values.scores[question.models[0]][question.prompt]
        return math.isfinite(scores[question.place])


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
    scores = _ScoreTable(outputs)
    comparisons: list[Comparison] = []
    numbers: Counter[tuple[str, ...]] = Counter()
    without: dict[Question, Verdict] = {}
    aspects: dict[str, None] = {}
    has_overall, scale = False, None
    for row in rows:
        question = Question.parse(row["id"])
        if not question or not question.is_of(outputs):
            continue
        verdict = read_verdict(row)
        scale = scale if aspect else row["scale"] or scale
        numbers[question.models] += 1
        if isinstance(verdict, Scored):
            has_overall |= verdict.score is not None
            aspects |= dict.fromkeys(verdict.aspects)
        value = _value(verdict, aspect)
        if comparison := _comparison(question, verdict, outputs):
            comparisons.append(comparison)
        elif value is not None and question.form == "score":
            scores.add(question, value)
        else:
            without[question] = verdict
    is_scored = any(len(models) == 1 for models in numbers)
    means, sigma = scores.means() if is_scored else ({}, None)
    calls = sum(n * (orders if len(models) == 2 else 1) for models, n in numbers.items())
    values = RewardValues(name, means, tuple(comparisons), sigma, calls)
    return RewardAnswers(values, without, numbers, [] if has_overall else [*aspects], scale, aspect)


def rows_of(path: Path, questions: Iterable[Question]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the verdict rows of questions, in the order of these, in constant memory.

    Args:
        path: Verdicts, of which there is one for each question; others are passed over.
        questions: The questions; fastest if they stand in the file in this order.

    Raises:
        DataError: The file cannot be read.
    """
    rows = (row for _, row in read_json_lines(path))
    places: IdTable | None = None
    for question in questions:
        name = question.id
        if places is None:
            row = next(rows, None)
            if row is not None and row["id"] == name:
                yield row
                continue
            places = IdTable()
            places.add((parse_json(raw)["id"], str(start)) for _, start, raw in read_lines(path))
        yield parse_json(read_line(path, int(places[name])))


def _value(verdict: Verdict, aspect: str) -> float | None:
    if not isinstance(verdict, Scored):
        return None
    score = verdict.aspects.get(aspect) if aspect else verdict.score
    return score.value if score else None


class _ScoreTable:
    """Scores of all outputs, as numbers; NaN for an output without one."""

    def __init__(self, outputs: ModelOutputs) -> None:
        self._outputs = outputs
        self._first: dict[str, dict[str, array[float]]] = {model: {} for model in outputs.models}
        self._repeated: dict[Question, list[float]] = {}

    def add(self, question: Question, value: float) -> None:
        """Add a reading of a score."""
        model, prompt, place, _ = question
        scores = self._first[model[0]].get(prompt)
        if scores is None:
            n = len(self._outputs.outputs[model[0]][prompt])
            scores = self._first[model[0]][prompt] = array("d", [math.nan] * n)
        if math.isnan(scores[place]):
            scores[place] = value
        else:
            output = question._replace(reading=1)
            self._repeated.setdefault(output, [scores[place]]).append(value)

    def means(self) -> tuple[Scores, float | None]:
        """Mean of the readings of each output, and the deviation of the readings, pooled."""
        for question, values in self._repeated.items():
            first = self._first[question.models[0]][question.prompt]
            first[question.place] = sum(values) / len(values)
        scores: dict[str, dict[str, tuple[float, ...]]] = {
            model: {
                prompt: tuple(self._first[model].pop(prompt, [math.nan] * len(candidates)))
                for prompt, candidates in by_prompt.items()
            }
            for model, by_prompt in self._outputs.outputs.items()
        }
        repeated = self._repeated.values()
        degrees = sum(len(values) - 1 for values in repeated)
        squares = sum(float(np.var(values)) * len(values) for values in repeated)
        return scores, math.sqrt(squares / degrees) if degrees else None


def _comparison(question: Question, verdict: Verdict, outputs: ModelOutputs) -> Comparison | None:
    if not isinstance(verdict, Preferred):
        return None
    orders = tuple(each.probability for each in verdict.orders)
    # Names that are there already, since there may be millions of comparisons.
    a, b = map(sys.intern, question.models)
    known = outputs.prompts[question.prompt].id
    prompt = known if known == question.prompt else question.prompt
    return Comparison(prompt, a, b, verdict.probability, verdict.consistent, orders)


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
