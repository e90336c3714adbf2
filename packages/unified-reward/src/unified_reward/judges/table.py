"""A judge that looks its verdicts up by sample id: anybody's published numbers, or the truth.

Knows neither prompts nor media, and has no order to be biased by.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Sample
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Verdict


_OPEN = Scale(None, None)
_BOTH = ("both_good", "both_bad")
"""Ties of GenAI-Bench, told apart by the verdict's text."""
_CERTAIN = 36.0
"""Differences beyond are told apart no more."""
_PROBABILITIES = {"first": (1.0, 0.0, 0.0), "tie": (0.0, 1.0, 0.0), "second": (0.0, 0.0, 1.0)}


class TableJudge(BaseJudge):
    """Verdicts by id. A comparison without one of its own follows from the two scores."""

    family = ""
    order_free = True

    def __init__(
        self,
        name: str,
        scores: Mapping[tuple[str, int], Score],
        preferences: Mapping[str, Preferred],
    ) -> None:
        self.name = name
        self._scores = scores
        self._preferences = preferences

    @classmethod
    def read(cls, path: Path) -> TableJudge:
        """Read ``id,candidate,value`` or ``id,winner[,probability]`` rows of a CSV or JSONL file.

        ``candidate`` is 0 or 1 (default 0); ``winner`` is first, tie or second, and both_good or
        both_bad are ties; ``probability`` is that the first is better.

        Raises:
            DataError: The file is missing, or a row is not of either kind; names the line.
        """
        scores: dict[tuple[str, int], Score] = {}
        preferences: dict[str, Preferred] = {}
        for line, row in _rows(path):
            try:
                if "winner" in row:
                    preferences[str(row["id"])] = _preference(row)
                else:
                    key = str(row["id"]), int(row.get("candidate") or 0)
                    value = float(row["value"])
                    if value not in _OPEN:
                        raise ValueError(f"value {value} is no finite number")
                    scores[key] = Score(value, _OPEN)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path} line {line}: {error}; a row has id,candidate,value or "
                    "id,winner[,probability]"
                ) from error
        return cls(f"table:{path}", scores, preferences)

    @classmethod
    def truth(cls, records: Iterable[Example]) -> TableJudge:
        """The perfect judge of these records: it answers their targets."""
        scores: dict[tuple[str, int], Score] = {}
        preferences: dict[str, Preferred] = {}
        for record in records:
            target, key = record.target, record.id
            if target.score is not None:
                scores[key, 0] = Score(target.score, target.scale or _OPEN)
            if target.winner is not None:
                preferences[key] = Preferred(*_PROBABILITIES[target.winner])
        return cls("scripted:perfect", scores, preferences)

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Look every sample up; an id that is not in the table has failed."""
        return [self._look_up(sample) for sample in samples]

    def _look_up(self, sample: Sample) -> Verdict:
        scores = [self._scores.get((sample.id, i)) for i in range(len(sample.candidates))]
        if sample.form == "score" and scores[0] is not None:
            return Scored(scores[0])
        if sample.form == "compare" and sample.id in self._preferences:
            return self._preferences[sample.id]
        if sample.form == "compare" and scores[0] and scores[1]:
            return _from_scores(scores[0].value, scores[1].value)
        return Failed(f"{self.name} has no {sample.form} for id {sample.id!r}")


def _from_scores(first: float, second: float) -> Preferred:
    """The logistic of the difference, at temperature 1 of whatever the scores are in.

    So preferences keep the order of differences; their size is no probability of anything. Never
    quite certain, and undecided only where the scores are equal.
    """
    if first == second:
        return Preferred(*_PROBABILITIES["tie"])
    share = 1 / (1 + math.exp(-min(abs(first - second), _CERTAIN)))
    share = max(share, 0.5 + sys.float_info.epsilon)
    return Preferred(*((share, 0.0, 1 - share) if first > second else (1 - share, 0.0, share)))


def _preference(row: Mapping[str, Any]) -> Preferred:
    if row.get("probability") not in (None, ""):
        first = float(row["probability"])
        return Preferred(first, 0.0, 1 - first)
    winner = row["winner"]
    if winner in _BOTH:
        return Preferred(*_PROBABILITIES["tie"], tie_kind=winner)
    if winner not in _PROBABILITIES:
        raise ValueError(f"winner {winner!r} is not first, tie or second")
    return Preferred(*_PROBABILITIES[winner])


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    yield from _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from error


def _csv_rows(path: Path, text: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not CSV: {error}") from error
