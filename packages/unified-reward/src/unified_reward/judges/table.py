"""The table judge: verdicts looked up by sample id, such as published numbers or the truth.

Knows neither prompts nor media; no order can bias it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import DataError
from unified_reward.core.probability import compare_values
from unified_reward.core.samples import Example, Sample
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Verdict


_OPEN = Scale(None, None)
_BOTH = ("both_good", "both_bad")
"""The two kinds of tie of GenAI-Bench; ``tie_kind`` of the verdict."""
_QUESTION = re.compile(r"(?P<id>.*) (?P<places>\d+(-\d+)?)( #\d+)?", re.DOTALL)
"""Id of a question about candidates of a row: ``<id> <i>`` or ``<id> <i>-<j>``, and its reading."""
_PROBABILITIES = {"first": (1.0, 0.0, 0.0), "tie": (0.0, 1.0, 0.0), "second": (0.0, 0.0, 1.0)}


class TableJudge(BaseJudge):
    """Verdicts by sample id; a comparison that is not in the table follows from two scores.

    It is then the logistic of their difference, at temperature 1 in units of the scores: the order
    of differences is kept, but the numbers are not calibrated probabilities.
    """

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

        ``candidate`` is its place in the row, from 0 (default 0), of any number of candidates;
        ``winner`` is first, tie or second, and both_good or both_bad are ties; ``probability`` is
        that the first is better.

        Raises:
            DataError: The file is missing, or a row is not of either kind or stands there twice;
                names the line.
        """
        scores: dict[tuple[str, int], Score] = {}
        preferences: dict[str, Preferred] = {}
        lines: dict[tuple[str, int | None], int] = {}
        for line, row in _rows(path):
            try:
                if "winner" in row:
                    key = str(row["id"]), None
                    preferences[key[0]] = _preference(row)
                else:
                    key = str(row["id"]), _place(row)
                    scores[key] = _score(row)
                if lines.setdefault(key, line) != line:
                    raise ValueError(f"{_name(*key)} stands on line {lines[key]} already")
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path} line {line}: {error}; a row has id,candidate,value or "
                    "id,winner[,probability]"
                ) from error
        return cls(f"table:{path}", scores, preferences)

    @classmethod
    def truth(cls, records: Iterable[Example]) -> TableJudge:
        """The perfect judge of these examples: it answers their targets."""
        scores: dict[tuple[str, int], Score] = {}
        preferences: dict[str, Preferred] = {}
        for record in records:
            target, key = record.target, record.id
            if record.pair:
                # The question of such a row has the chosen candidate first.
                preferences[key] = Preferred(*_PROBABILITIES["first"])
                continue
            if target.score is not None:
                scores[key, 0] = Score(target.score, target.scale or _OPEN)
            if target.winner is not None:
                preferences[key] = Preferred(*_PROBABILITIES[target.winner])
        return cls("scripted:perfect", scores, preferences)

    def ask(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Verdict]:
        """Look every sample up; an id that is not in the table fails."""
        verdicts = [self._look_up(sample) for sample in samples]
        if on_progress:
            on_progress(len(samples))
        return verdicts

    def _look_up(self, sample: Sample) -> Verdict:
        scores = [self._scores.get((sample.id, i)) for i in range(len(sample.candidates))]
        if None in scores:
            scores = self._listed_scores(sample) or scores
        if sample.form == "score" and scores[0] is not None:
            return Scored(scores[0])
        if sample.form == "compare" and sample.id in self._preferences:
            return self._preferences[sample.id]
        if sample.form == "compare" and scores[0] and scores[1]:
            return compare_values(scores[0].value, scores[1].value)
        return Failed(f"{self.name} has no {sample.form} for id {sample.id!r}")

    def _listed_scores(self, sample: Sample) -> list[Score | None]:
        """Scores of candidates of a longer row, which its questions name by their places."""
        found = _QUESTION.fullmatch(sample.id)
        if not found:
            return []
        places = [int(place) for place in found["places"].split("-")]
        if len(places) != len(sample.candidates):
            return []
        return [self._scores.get((found["id"], place)) for place in places]


def _place(row: Mapping[str, Any]) -> int:
    place = int(row.get("candidate") or 0)
    if place < 0:
        raise ValueError(f"candidate {place} is not >= 0")
    return place


def _score(row: Mapping[str, Any]) -> Score:
    value = float(row["value"])
    if value not in _OPEN:
        raise ValueError(f"value {value} is not a finite number")
    return Score(value, _OPEN)


def _name(name: str, place: int | None) -> str:
    return f"id {name!r} with a winner" if place is None else f"id {name!r}, candidate {place},"


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
