"""Samples and examples: what is judged, and what is known about it.

Standard library only. Nothing here opens a file, knows a prompt or loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast


if TYPE_CHECKING:
    pass
from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.verdicts import Scale, Winner


Form = Literal["score", "compare"]


Layout = Literal["HWC", "CHW", "THWC", "TCHW"]


FrameRule = Literal["linspace_inclusive", "span_centres", "stride_floor"]


class Task(StrEnum):
    """What is judged: something generated from a prompt, or an answer about something seen."""

    IMAGE_GENERATION = "image_generation"
    IMAGE_UNDERSTANDING = "image_understanding"
    VIDEO_GENERATION = "video_generation"
    VIDEO_UNDERSTANDING = "video_understanding"
    IMAGE_EDITING = "image_editing"


@dataclass(frozen=True, eq=False)
class _Media:
    source: Any
    """A path, the encoded bytes, a PIL picture, or an array (then ``layout`` says how it lies)."""
    layout: Layout | None = None

    def __post_init__(self) -> None:
        is_array = hasattr(self.source, "__array_interface__") and hasattr(self.source, "dtype")
        if is_array and self.layout is None:
            raise MediaError(
                f"an array of shape {tuple(self.source.shape)} needs a layout: "
                "'HWC' or 'CHW' for an image, 'THWC' or 'TCHW' for a video"
            )

    def __eq__(self, other: object) -> bool:
        """Equal paths or bytes; pixels in memory are equal only to themselves."""
        if type(other) is not type(self):
            return NotImplemented
        if isinstance(self.source, str | Path | bytes):
            return self.source == other.source  # type: ignore[attr-defined]
        return self.source is other.source  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        if isinstance(self.source, str | Path | bytes):
            return hash((type(self), self.source))
        return hash((type(self), id(self.source)))


@dataclass(frozen=True, eq=False)
class Image(_Media):
    """One picture: where it is, or its pixels. Opening it is the work of ``media``."""


@dataclass(frozen=True, eq=False)
class Video(_Media):
    """One clip: a file, an array, or a tuple of ``Image`` frames."""

    fps: float | None = None
    """Frames per second of an array or of a tuple of frames. A file knows its own."""


Candidate = Image | Video | str | tuple[Image | Video | str, ...]


@dataclass(frozen=True)
class Sample:
    """One question to a judge: one candidate asks for a score, two for a comparison."""

    task: Task
    prompt: str
    """The caption of a generated medium, or the question about a given one."""
    candidates: tuple[Candidate, ...]
    context: tuple[Image | Video, ...] = ()
    """What the question is about; empty for generation."""
    criteria: str = ""
    """What to look at, in the asker's words; empty for the family's own."""
    id: str = ""

    def __post_init__(self) -> None:
        if len(self.candidates) not in (1, 2):
            raise DataError(
                f"a sample has one candidate (score) or two (compare), not {len(self.candidates)}"
            )
        understanding = self.task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)
        for candidate in self.candidates:
            if understanding and isinstance(candidate, Image | Video):
                raise DataError(f"a candidate of {self.task.value} is an answer in words")
            if not understanding and isinstance(candidate, str):
                raise DataError(f"a candidate of {self.task.value} is a picture or a clip")
        if not self.context and (understanding or self.task is Task.IMAGE_EDITING):
            raise DataError(f"{self.task.value} needs what it is about in context")

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """Images and videos of the context, then of the candidates."""
        flat: list[Candidate] = [*self.context]
        for candidate in self.candidates:
            flat += candidate if isinstance(candidate, tuple) else (candidate,)
        return tuple(part for part in flat if isinstance(part, Image | Video))

    @property
    def form(self) -> Form:
        """``score`` for one candidate, ``compare`` for two."""
        return "score" if len(self.candidates) == 1 else "compare"

    def split(self) -> list[Sample]:
        """One sample that asks for a score per candidate."""
        return [replace(self, candidates=(candidate,)) for candidate in self.candidates]

    def swapped(self) -> Sample:
        """The same comparison with the two candidates in the other order."""
        return replace(self, candidates=self.candidates[::-1])


@dataclass(frozen=True)
class Target:
    """What people (or a known world) say about a sample: what a judge is trained and tested on."""

    score: float | None = None
    scale: Scale | None = None
    """Of the score; where there is none, of the aspects."""
    aspects: Mapping[str, float] = field(default_factory=dict[str, float])
    winner: Winner | None = None
    rationale: str = ""


@dataclass(frozen=True)
class Example:
    """A sample with its target."""

    sample: Sample
    target: Target
    source: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    """A published conversation, kept to the letter; trainable as it is."""

    id = property(lambda self: cast("str", self.sample.id))
    task = property(lambda self: cast("Task", self.sample.task))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """Images and videos of the context, then of the candidates."""
        return self.sample.media


@dataclass(frozen=True)
class Conversation:
    """A published question and its answer, kept to the letter; its sample is not known.

    Where an imported wording recognises the question, it is a `Example` with ``messages`` instead.
    """

    task: Task
    media: tuple[Image | Video, ...]
    """What the question shows, in its order."""
    messages: tuple[Mapping[str, Any], ...]
    """As published: ``{"from": "human" | "gpt", "value": text}``, ``<image>`` marks included."""
    target: Target
    source: str = ""
    id: str = ""

    @property
    def form(self) -> Form:
        """``compare`` where the answer names a winner."""
        return "compare" if self.target.winner else "score"
