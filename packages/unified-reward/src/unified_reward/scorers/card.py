"""The card of a published scorer: what its numbers mean, and how far this port is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale


OPEN = Scale(None, None)

State = Literal["twin", "unverified"]
"""``twin``: equal to float64 equations on random weights in the released layout."""


@dataclass(frozen=True)
class ScoreCard:
    """What is to be known of a published scorer before its numbers are used."""

    name: str
    system: str
    task: Task
    paper: str
    """arXiv id."""
    weights: tuple[str, ...]
    """Where the released files are found."""
    values: str
    """What the values are, their usual range, and who says so. Higher is better, always."""
    aspects: tuple[str, ...] = ()
    """In the order of the outputs; empty where there is one value, the overall one."""
    overall: str = "the model's one value"
    """How it is formed, and by whom."""
    scale: Scale = OPEN
    """Of the overall value and of each aspect."""
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
    frames: str = ""
    """Which frames of a clip are seen."""
    temperature: float = 1.0
    """A comparison is the logistic of the difference of overall values divided by this."""
    temperature_source: str = "this library: nobody has calibrated it"
    wording: tuple[str, ...] = ()
    """Names of the imported prompts that it is asked with."""
    code_licence: str = ""
    weights_licence: str = ""
    deviations: tuple[str, ...] = ()
    """From the released code."""
    verified: tuple[str, ...] = ()
    """What of this port was checked, and how."""
    open_questions: tuple[str, ...] = ()
    state: State = "twin"
