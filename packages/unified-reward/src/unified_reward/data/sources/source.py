"""What is known of a published set of human judgements before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale
from unified_reward.prompts.parse import Aspect


@dataclass(frozen=True)
class Source:
    """One published set of human judgements."""

    name: str
    layout: str
    """The reader of its rows: the name of a module of this package."""
    task: Task
    form: Form | None = None
    """None where a row says it."""
    scale: Scale | None = None
    """Of the overall score, as published; None where there is none."""
    aspects: tuple[Aspect, ...] = ()
    """What is stated beside the overall score, or instead of it."""
    note: str = ""
    """What a user must know before reading: where media start, what is not certain."""
    url: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only this layout needs, such as names of columns."""
