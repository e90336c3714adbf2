"""Verdicts as rows of JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.verdicts import (
    Failed,
    Preferred,
    Ranking,
    Scale,
    Score,
    Scored,
    Unparsed,
    Verdict,
)


NOTE = "note: "
"""Begins the reason of a verdict that lacks nothing."""
VERDICT_KEYS = (
    *("id", "status", "value", "normalized", "scale", "sigma", "aspects", "winner"),
    *("p_first", "p_tie", "p_second", "probability", "orders", "consistent", "order"),
    *("scores", "text", "reason", "judge", "family"),
)


def verdict_row(
    name: str, verdict: Verdict | Ranking, *, judge: str, family: str
) -> dict[str, Any]:
    """Write a verdict as a row; every key is always present, null where it does not apply.

    The reason of a score or a comparison is its notes, after ``NOTE``; null without any.
    """
    row: dict[str, Any] = dict.fromkeys(VERDICT_KEYS)
    row |= {"id": name, "aspects": {}, "judge": judge, "family": family}
    match verdict:
        case Scored():
            row |= {"status": "scored", **_score_row(verdict.score), "text": verdict.text}
            row["aspects"] = {key: one.value for key, one in verdict.aspects.items()}
            row["reason"] = _noted(verdict.notes)
        case Preferred():
            row |= {"status": "preferred", **_preference_row(verdict), "text": verdict.text}
            row["orders"] = [_preference_row(one) for one in verdict.orders] or None
            row |= {"consistent": verdict.consistent, "aspects": dict(verdict.aspects)}
            row["reason"] = _noted(verdict.notes)
        case Ranking():
            row |= {"status": "ranked", "order": verdict.order, "scores": verdict.scores}
            lost = [_why(one) for one in verdict.verdicts if isinstance(one, Unparsed | Failed)]
            answered = (one for one in verdict.verdicts if isinstance(one, Scored | Preferred))
            notes = dict.fromkeys(note for one in answered for note in one.notes)
            row["reason"] = "; ".join(lost) or _noted(notes)
        case Unparsed():
            row |= {"status": "unparsed", "reason": _why(verdict), "text": verdict.text}
        case Failed():
            row |= {"status": "failed", "reason": _why(verdict)}
    return row


def _noted(notes: Collection[str]) -> str | None:
    return NOTE + "; ".join(notes) if notes else None


def _notes(row: Mapping[str, Any]) -> tuple[str, ...]:
    reason = row["reason"] or ""
    return tuple(reason.removeprefix(NOTE).split("; ")) if reason.startswith(NOTE) else ()


def _why(verdict: Unparsed | Failed) -> str:
    return verdict.reason if isinstance(verdict, Unparsed) else verdict.error


def _score_row(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    scale = [score.scale.low, score.scale.high]
    return {
        "value": score.value,
        "normalized": score.normalized,
        "scale": scale,
        "sigma": score.sigma,
    }


def _preference_row(verdict: Preferred) -> dict[str, Any]:
    return {
        "winner": verdict.winner,
        "p_first": verdict.p_first,
        "p_tie": verdict.p_tie,
        "p_second": verdict.p_second,
        "probability": verdict.probability,
    }


def read_verdict_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file of verdicts, one a line.

    Raises:
        DataError: The file cannot be read, or a line is not a row with an id; names the line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict) or "id" not in row:
                    raise DataError(f"{path} line {number} is not a verdict row with an id")
                yield row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} holds a line that is not JSON: {error}") from error


def read_verdict(row: Mapping[str, Any]) -> Verdict:
    """The verdict that `verdict_row` wrote. Aspects have no scale in a row and get an open one.

    Raises:
        DataError: It is a ranking, or no verdict row.
    """
    try:
        match row["status"]:
            case "scored":
                score = None
                if row["value"] is not None:
                    score = Score(row["value"], Scale(*row["scale"]), row["sigma"])
                named = row["aspects"].items()
                aspects = {name: Score(value, Scale(None, None)) for name, value in named}
                return Scored(score, aspects, row["text"], _notes(row))
            case "preferred":
                orders = tuple(Preferred(*_shares(one)) for one in row["orders"] or ())
                aspects = row["aspects"]
                return Preferred(*_shares(row), aspects, row["text"], orders, notes=_notes(row))
            case "unparsed":
                return Unparsed(row["reason"], row["text"])
            case "failed":
                return Failed(row["reason"])
            case other:
                raise DataError(f"a verdict row has no status {other!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"this is not a verdict row: {error!r}") from error


def _shares(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return row["p_first"], row["p_tie"], row["p_second"]
