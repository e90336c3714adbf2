"""The card of a published scorer: meaning of its numbers, and checks of this port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unified_reward.core.base_judge import describe_task
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale


OPEN = Scale(None, None)


class Fact(NamedTuple):
    """Answer of a folder to a question that no published source answers."""

    question: str
    found: str
    """Content of the folder, such as a value or a hash; never a guess."""
    settles: str
    """Consequence for the loader or its score."""


@dataclass(frozen=True)
class ScoreCard:
    """Facts about a published scorer to know before its numbers are used."""

    name: str
    system: str
    tasks: tuple[Task, ...]
    """Kinds of candidates that it scores."""
    paper: str
    """arXiv id."""
    weights: tuple[str, ...]
    """Hub ids or places of the released files."""
    values: str
    """Meaning of the values, their usual range, and its source. Higher is always better."""
    aspects: tuple[str, ...] = ()
    """In the order of the outputs; empty if there is only the overall value."""
    overall: str = "the model's one value"
    """Formula of the overall value, and its authors."""
    scale: Scale = OPEN
    """Scale of the overall value and of each aspect."""
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
    frames: str = ""
    """Frames of a video that the model gets."""
    temperature: float = 1.0
    """A comparison is the logistic of the difference of overall values divided by this."""
    temperature_source: str = "this library: nobody has calibrated it"
    wording: tuple[str, ...] = ()
    """Names of the imported prompts that it needs."""
    code_licence: str = ""
    weights_licence: str = ""
    deviations: tuple[str, ...] = ()
    """Differences from the released code."""
    verified: tuple[str, ...] = ()
    """Checks of this port, and their method."""
    open_questions: tuple[str, ...] = ()


def describe_card(card: ScoreCard, aspects: Mapping[str, Scale]) -> dict[str, Any]:
    """Entries of `BaseJudge.describe` that a card knows.

    Args:
        card: The card.
        aspects: Scale of each aspect.
    """
    task = describe_task(("score", "compare"), card.scale, aspects)
    return {
        "tasks": {one.value: task for one in card.tasks},
        "values": card.values,
        "licence": {
            "code": card.code_licence or None,
            "weights": card.weights_licence or None,
        },
    }
