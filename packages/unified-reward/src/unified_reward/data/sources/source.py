"""Description of a published set of human judgements, known before it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row
from unified_reward.prompts.parse import Aspect


@dataclass(frozen=True)
class Source:
    """One published set of human judgements."""

    name: str
    layout: str | Callable[[Iterator[Raw], Source, Path], Iterator[Row]]
    """The reader of its rows: the name of a module of this package, or a function like theirs."""
    task: Task
    """Task of its rows; of votes, each row has its own."""
    form: Form | None = None
    """None if each row has its own."""
    scale: Scale | None = None
    """Scale of the overall score, as published; None where there is none."""
    aspects: tuple[Aspect, ...] = ()
    """Aspects stated beside the overall score, or instead of it."""
    note: str = ""
    """Note for users: where media start, what is not certain."""
    url: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of this layout alone, such as names of columns."""
