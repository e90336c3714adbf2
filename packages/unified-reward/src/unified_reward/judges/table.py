"""The table judge: verdicts looked up by sample id, such as published numbers or the truth.

Knows neither prompts nor media; no order can bias it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from unified_reward.core.base_judge import BaseJudge, Progress, describe_task
from unified_reward.core.errors import DataError
from unified_reward.core.probability import compare_values
from unified_reward.core.samples import Example, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed, Verdict
from unified_reward.io.fingerprints import file_fingerprint
from unified_reward.io.rows import id_text
from unified_reward.io.text import read_json_lines, read_table, to_float
from unified_reward.io.verdict_rows import VERDICT_KEYS, read_verdict


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
        verdicts: Mapping[str, Verdict],
    ) -> None:
        self.name = name
        self.file: Path | None = None
        self._scores = scores
        self._verdicts = verdicts

    @classmethod
    def read(cls, path: Path) -> TableJudge:
        """Read ``id,candidate,value`` or ``id,winner[,probability]`` rows of CSV, TSV or JSONL.

        ``candidate`` is its place in the row, from 0 (default 0), of any number of candidates;
        ``winner`` is first, tie or second, and both_good or both_bad are ties; ``probability`` is
        that the first is better. ``p_first,p_tie,p_second`` may stand beside or instead of it, as
        in our own verdicts. Of these a row that failed or is unparsed is answered as it is, and a
        ranking gives its scores.

        Raises:
            DataError: The file is missing or holds no row, or a row is not of one kind, contradicts
                itself or stands there twice; names the lines.
        """
        scores: dict[tuple[str, int], Score] = {}
        verdicts: dict[str, Verdict] = {}
        lines: dict[tuple[str, int | None], int] = {}
        for line, row in _rows(path):
            try:
                name = _id(row)
                for place, value in _values(row):
                    if lines.setdefault((name, place), line) != line:
                        first = lines[name, place]
                        raise ValueError(f"{_name(name, place)} stands on line {first} already")
                    if isinstance(value, Score):
                        scores[name, place or 0] = value
                    else:
                        verdicts[name] = value
            except (KeyError, TypeError, ValueError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise DataError(
                    f"{path} line {line}: {reason}; a row has id,candidate,value or "
                    "id,winner[,probability]"
                ) from error
        if not lines:
            raise DataError(f"{path} holds no row")
        table = cls(f"table:{path}", scores, verdicts)
        table.file = path
        return table

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

    def describe(self) -> dict[str, Any]:
        """Facts about the table, which takes every task; see `BaseJudge.describe`."""
        has_scores = self._scores or any(isinstance(v, Scored) for v in self._verdicts.values())
        task = describe_task(("score", "compare") if has_scores else ("compare",), None, {})
        return super().describe() | {
            "kind": "table",
            "tasks": {one.value: task for one in Task},
            "values": "those of the table, by id",
            "revision": self.file and file_fingerprint(self.file),
        }

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
        known = self._verdicts.get(sample.id)
        if sample.form == "score" and scores[0] is not None:
            return Scored(scores[0])
        answers = (Preferred if sample.form == "compare" else Scored, Failed, Unparsed)
        if isinstance(known, answers):
            return known
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


def _id(row: Mapping[str, Any]) -> str:
    name = id_text(row["id"])
    if not isinstance(name, str) or not name:
        raise ValueError(f"an id is text or a whole number, not {name!r}")
    return name


def _values(row: Mapping[str, Any]) -> list[tuple[int | None, Score | Verdict]]:
    """Scores of a row with the places of their candidates, or a verdict on the whole row."""
    status = row["status"] if row.keys() >= {*VERDICT_KEYS} else ""
    if status in ("failed", "unparsed") or (status == "scored" and row["value"] is None):
        return [(None, read_verdict(row))]
    if status == "ranked":
        return [(i, _score(value)) for i, value in enumerate(row["scores"]) if value is not None]
    if _is_comparison(row):
        return [(None, _preference(row))]
    return [(_place(row), _score(row["value"]))]


def _is_comparison(row: Mapping[str, Any]) -> bool:
    names = ("winner", "probability", "p_first", "p_tie", "p_second", "value")
    given = [name for name in names if _given(row, name) is not None]
    if not given:
        raise ValueError("neither a value nor a winner")
    if "value" in given and len(given) > 1:
        raise ValueError(f"a value of one candidate beside the {given[0]} of two")
    return "value" not in given


def _place(row: Mapping[str, Any]) -> int:
    place = to_float(_given(row, "candidate") or 0)
    if not (place >= 0 and place.is_integer()):
        raise ValueError(f"candidate {place:g} is not a whole number >= 0")
    return int(place)


def _score(given: Any) -> Score:
    return Score(to_float(given), _OPEN)


def _name(name: str, place: int | None) -> str:
    return f"id {name!r} with a winner" if place is None else f"id {name!r}, candidate {place},"


def _preference(row: Mapping[str, Any]) -> Preferred:
    """The comparison of a row, by its three shares, its probability or its winner."""
    winner = _given(row, "winner")
    if winner is not None and winner not in (*_PROBABILITIES, *_BOTH):
        raise ValueError(f"winner {winner!r} is not first, tie or second")
    outcome = "tie" if winner in _BOTH else winner
    names = ("p_first", "p_tie", "p_second")
    shares = [to_float(row[name]) for name in names if _given(row, name) is not None]
    first = None if _given(row, "probability") is None else to_float(row["probability"])
    if first is not None and not 0 <= first <= 1:
        raise ValueError(f"probability {first:g} is not in [0, 1]")
    if len(shares) == 3:
        verdict = Preferred(shares[0], shares[1], shares[2])
    elif shares:
        raise ValueError("p_first, p_tie and p_second stand together")
    elif first is not None:
        verdict = Preferred(first, 0.0, 1 - first)
    else:
        verdict = Preferred(*_PROBABILITIES[str(outcome)])
    if outcome is not None and outcome != verdict.winner:
        raise ValueError(
            f"winner {winner!r} contradicts the probabilities {verdict.p_first:g}, "
            f"{verdict.p_tie:g}, {verdict.p_second:g}"
        )
    if first is not None and abs(first - verdict.probability) > 1e-6:
        raise ValueError(f"probability {first:g} contradicts p_first, p_tie and p_second")
    return replace(verdict, tie_kind=winner) if winner in _BOTH else verdict


def _given(row: Mapping[str, Any], column: str) -> Any:
    return None if row.get(column) == "" else row.get(column)


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        raise DataError(f"{path}: a table is .csv, .tsv or .jsonl, a row a line")
    if suffix == ".jsonl":
        yield from read_json_lines(path)
        return
    for line, cells in read_table(path, "\t" if suffix == ".tsv" else ","):
        if isinstance(cells, str):
            raise DataError(f"{path} line {line}: {cells}")
        yield line, cells
