"""Verdicts as rows of JSON, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
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
    Winner,
)
from unified_reward.io.text import read_json_lines


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
            answers = verdict.verdicts
            lost = dict.fromkeys(
                one.reason for one in answers if isinstance(one, Unparsed | Failed)
            )
            answered = (one for one in verdict.verdicts if isinstance(one, Scored | Preferred))
            notes = dict.fromkeys(note for one in answered for note in one.notes)
            row["reason"] = "; ".join(lost) or _noted(notes)
            if not verdict.order:
                reason = ": ".join(["no candidate has a score", *filter(None, ["; ".join(lost)])])
                row |= {"status": "failed", "reason": reason}
        case Unparsed():
            row |= {"status": "unparsed", "reason": verdict.reason, "text": verdict.text}
        case Failed():
            row |= {"status": "failed", "reason": verdict.reason}
    return row


def _noted(notes: Collection[str]) -> str | None:
    return NOTE + "; ".join(notes) if notes else None


def _notes(row: Mapping[str, Any]) -> tuple[str, ...]:
    reason = row["reason"] or ""
    return tuple(reason.removeprefix(NOTE).split("; ")) if reason.startswith(NOTE) else ()


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


def check_winner(winner: Winner, probability: float) -> None:
    """Check the winner of a comparison against the probability, a tie counted half, of the first.

    A tie is the most probable outcome of three between 0.25 and 0.75 alone.

    Raises:
        ValueError: They contradict each other; names both.
    """
    first, second = probability > 0.5, probability < 0.5
    agrees = {"first": first, "second": second, "tie": 0.25 <= probability <= 0.75}[winner]
    if not agrees or not 0 <= probability <= 1:
        raise ValueError(f"winner {winner!r} and probability {probability:g} contradict each other")


def read_verdict_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file of verdicts, one a line.

    Raises:
        DataError: The file cannot be read, or a line is not a row with an id, or has that of an
            earlier one; names the line.
    """
    lines: dict[str, int] = {}
    for number, row in read_json_lines(path):
        if not isinstance(row.get("id"), str):
            raise DataError(f"{path} line {number} is not a verdict row with an id")
        if lines.setdefault(row["id"], number) != number:
            raise DataError(
                f"{path} line {number}: id {row['id']!r} stands on line {lines[row['id']]} already"
            )
        yield row


def read_verdict(row: Mapping[str, Any]) -> Verdict:
    """The verdict that `verdict_row` wrote. Aspects have no scale in a row and get an open one.

    Raises:
        DataError: It is a ranking, or no verdict row, or contradicts itself.
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
                orders = tuple(_preferred(one) for one in row["orders"] or ())
                return replace(
                    _preferred(row),
                    aspects=row["aspects"],
                    text=row["text"],
                    orders=orders,
                    notes=_notes(row),
                )
            case "unparsed":
                return Unparsed(row["reason"], row["text"])
            case "failed":
                return Failed(row["reason"])
            case other:
                raise DataError(f"a verdict row has no status {other!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"this is not a verdict row: {error!r}") from error


def _preferred(row: Mapping[str, Any]) -> Preferred:
    """The comparison of a row, whose winner and probability follow from the three shares."""
    verdict = Preferred(row["p_first"], row["p_tie"], row["p_second"])
    winner, probability = row["winner"], row["probability"]
    if winner != verdict.winner or abs(probability - verdict.probability) > 1e-6:
        raise ValueError(
            f"winner {winner!r} and probability {probability} contradict p_first "
            f"{verdict.p_first}, p_tie {verdict.p_tie}, p_second {verdict.p_second}"
        )
    return verdict
