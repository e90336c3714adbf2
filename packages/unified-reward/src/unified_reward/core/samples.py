"""Samples, the questions to a judge, and examples, rows of data with their labels.

Standard library only. Nothing here opens a file, knows a prompt or loads a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.verdicts import Scale, Winner


Form = Literal["score", "compare"]
Layout = Literal["HWC", "CHW", "THWC", "TCHW"]
FrameRule = Literal["linspace_inclusive", "span_centres", "stride_floor"]


class Task(StrEnum):
    """Kind of candidate a judge is given: a medium made from a prompt, or an answer about one.

    >>> Task("image_generation") is Task.IMAGE_GENERATION
    True
    """

    IMAGE_GENERATION = "image_generation"
    IMAGE_UNDERSTANDING = "image_understanding"
    VIDEO_GENERATION = "video_generation"
    VIDEO_UNDERSTANDING = "video_understanding"
    IMAGE_EDITING = "image_editing"


@dataclass(frozen=True, eq=False)
class _Media:
    source: Any
    """A path, the encoded bytes, a PIL image, or an array of the given ``layout``."""
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
    """An image: a path, encoded bytes or pixels. It is opened by ``media``.

    >>> image = Image("cat.png")
    >>> image.source, image == Image("cat.png")
    ('cat.png', True)
    """


@dataclass(frozen=True, eq=False)
class Video(_Media):
    """A video: a file, an array, or a tuple of ``Image`` frames.

    >>> video = Video((Image("0.png"), Image("1.png")), fps=8)
    >>> len(video.source), video.fps
    (2, 8)
    """

    fps: float | None = None
    """Frames per second of an array or of a tuple of frames. A file knows its own."""


Candidate = Image | Video | str | tuple[Image | Video | str, ...]


def _media_of(parts: Iterable[Candidate]) -> tuple[Image | Video, ...]:
    flat = (p for part in parts for p in (part if isinstance(part, tuple) else (part,)))
    return tuple(part for part in flat if isinstance(part, Image | Video))


@dataclass(frozen=True)
class Sample:
    """One question to a judge: one candidate asks for a score, two for a comparison.

    >>> sample = Sample(Task.IMAGE_GENERATION, "a cat", (Image("a.png"), Image("b.png")))
    >>> sample.form, sample.swapped().candidates[0].source
    ('compare', 'b.png')
    """

    task: Task
    prompt: str
    """The caption of a generated medium, or the question about a given one."""
    candidates: tuple[Candidate, ...]
    context: tuple[Image | Video, ...] = ()
    """Media that the question or the edit is about; empty for generation, and for answers to a
    question of text alone."""
    criteria: str = ""
    """Criteria in the user's own words; empty for those of the judge's family."""
    id: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.candidates, str):
            raise DataError(
                f"candidates is a tuple such as ({self.candidates!r},), not the text "
                f"{self.candidates!r}"
            )
        if len(self.candidates) not in (1, 2):
            raise DataError(
                f"a sample has one candidate (score) or two (compare), not {len(self.candidates)}"
            )
        _check_media(self.task, self.candidates, self.context)

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """Images and videos of the context, then of the candidates."""
        return _media_of((*self.context, *self.candidates))

    @property
    def form(self) -> Form:
        """``score`` for one candidate, ``compare`` for two."""
        return "score" if len(self.candidates) == 1 else "compare"

    def split(self) -> list[Sample]:
        """One sample that asks for a score per candidate."""
        return [replace(self, candidates=(candidate,)) for candidate in self.candidates]

    def swapped(self) -> Sample:
        """Return the comparison with its two candidates in the other order."""
        return replace(self, candidates=self.candidates[::-1])


def _check_media(task: Task, candidates: Sequence[Candidate], context: Sequence[Any]) -> None:
    understanding = task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)
    for candidate in candidates:
        if understanding and isinstance(candidate, Image | Video):
            raise DataError(f"a candidate of {task.value} is an answer in words")
        if not understanding and isinstance(candidate, str):
            raise DataError(f"a candidate of {task.value} is an image or a video, not text")
    if task is not Task.IMAGE_UNDERSTANDING:
        check_context(task, context)


def check_context(task: Task, context: Sequence[Any]) -> None:
    """Refuse a question that lacks the media it is about.

    An answer to a question of text alone is a sample of `Task.IMAGE_UNDERSTANDING` without
    context: samples may be so, and whoever needs the image refuses them here.

    Raises:
        DataError: The task is about media, and there are none.
    """
    alone = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
    if not context and task not in alone:
        raise DataError(f"{task.value} needs the image or video it is about in context")


@dataclass(frozen=True)
class Target:
    """Human (or exactly known) judgement of an example: the label a judge learns and is tested on.

    A target in which nothing is known is false.

    Raises:
        DataError: A number is not finite, or lies outside its scale.
    """

    score: float | None = None
    scale: Scale | None = None
    """Scale of the score; without a score, that of the aspects."""
    aspects: Mapping[str, float] = field(default_factory=dict[str, float])
    winner: Winner | None = None
    rationale: str = ""
    """Reason for the judgement, in words that a judge may learn to write."""

    def __post_init__(self) -> None:
        for name, value in (("score", self.score), *self.aspects.items()):
            if value is not None and not math.isfinite(value):
                raise DataError(f"{name} {value} of a target is not a finite number")
        of_scale = self.aspects if self.score is None else {"score": self.score}
        for name, value in of_scale.items():
            if self.scale is not None and value not in self.scale:
                raise DataError(f"{name} {value:g} is outside its scale {self.scale}")

    def __bool__(self) -> bool:
        return self != Target()


@dataclass(frozen=True)
class Pair:
    """Chosen and rejected candidate of an example, by index, with their scores.

    Raises:
        DataError: A score is not a finite number.
    """

    chosen: int
    rejected: int
    chosen_score: float | None = None
    """On the judge's own scale; None where it only compared."""
    rejected_score: float | None = None

    def __post_init__(self) -> None:
        for score in (self.chosen_score, self.rejected_score):
            if score is not None and not math.isfinite(score):
                raise DataError(f"score {score} of a pair is not a finite number")


@dataclass(frozen=True)
class PreferencePair:
    """Two candidates of one prompt, of which one is preferred: what DPO learns from."""

    id: str
    task: Task
    prompt: str
    context: tuple[Image | Video, ...]
    """Media that the prompt is about; empty for generation."""
    chosen: Candidate
    rejected: Candidate
    chosen_score: float | None = None
    """On the judge's own scale; None where it only compared."""
    rejected_score: float | None = None
    criteria: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_example(self) -> Example:
        """Return the pair as an example of two candidates, the chosen one first."""
        return Example(
            self.task,
            self.prompt,
            (self.chosen, self.rejected),
            self.context,
            self.criteria,
            self.id,
            tags=self.tags,
            pair=Pair(0, 1, self.chosen_score, self.rejected_score),
        )


@dataclass(frozen=True)
class Example:
    """A row of data: a prompt with any number of candidates, and what is known about them.

    A prompt alone has no candidates. A published conversation whose sample is not known has none
    either, but ``messages``, and its media in ``context``.
    """

    task: Task
    prompt: str
    candidates: tuple[Candidate, ...] = ()
    context: tuple[Image | Video, ...] = ()
    """Media that the prompt is about; empty for generation."""
    criteria: str = ""
    """Criteria in the user's own words; empty for those of the judge's family."""
    id: str = ""
    target: Target = Target()
    """Judgement of one or two candidates; empty where there is none."""
    raters: Any = None
    """People behind the target, as published: their number, names or single judgements."""
    source: str = ""
    """Name of the data set."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Facts about the row that nobody learns to write, such as its group in a benchmark or the kind
    of a vote. Names that end in ``_first`` and ``_second`` describe one candidate."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """A published conversation, verbatim: ``{"from": "human" | "gpt", "value": text}`` with
    ``<image>`` marks; trainable as it is."""
    pair: Pair | None = None
    """Preference pair that a judge made of the candidates."""

    def __post_init__(self) -> None:
        if self.candidates or not self.messages:
            _check_media(self.task, self.candidates, self.context)

    @classmethod
    def of(
        cls,
        sample: Sample,
        target: Target | None = None,
        source: str = "",
        messages: tuple[Mapping[str, Any], ...] = (),
        *,
        tags: Mapping[str, str] | None = None,
        raters: Any = None,
    ) -> Example:
        """Make an example of a sample and what is known about it."""
        return cls(
            sample.task,
            sample.prompt,
            sample.candidates,
            sample.context,
            sample.criteria,
            sample.id,
            target or Target(),
            raters,
            source,
            tags or {},
            messages,
        )

    @cached_property
    def sample(self) -> Sample:
        """The question about one or two candidates.

        Raises:
            DataError: There are no candidates, or more than two.
        """
        if self.messages and not self.candidates:
            raise DataError(f"the candidates of the published conversation {self.id!r} are unknown")
        return self._sample(range(len(self.candidates)), self.id)

    def _sample(self, indices: Sequence[int], name: str) -> Sample:
        candidates = tuple(self.candidates[i] for i in indices)
        return Sample(self.task, self.prompt, candidates, self.context, self.criteria, name)

    @property
    def form(self) -> Form:
        """``compare`` for a pair, for two candidates and for a conversation that names a winner."""
        if self.messages and not self.candidates:
            return "compare" if self.target.winner else "score"
        return "compare" if self.pair or len(self.candidates) == 2 else "score"

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """Images and videos of the context, then of the candidates."""
        return _media_of((*self.context, *self.candidates))

    def as_samples(self) -> list[Sample]:
        """Return the questions a judge is asked about this example.

        The comparison of chosen and rejected where a pair was made, else the sample itself for one
        or two candidates, else one score for each candidate, with the id ``<id> <index>``. Nothing
        for a prompt alone and for a conversation whose candidates are unknown.
        """
        if self.pair:
            return [self._sample((self.pair.chosen, self.pair.rejected), self.id)]
        if len(self.candidates) in (1, 2):
            return [self.sample]
        return [self._sample((i,), f"{self.id} {i}") for i in range(len(self.candidates))]

    def as_pair(self) -> PreferencePair | None:
        """Return the preference pair of this example.

        The pair that was made, or of two candidates the winner and the loser; None where there is
        neither, such as for a tie.
        """
        pair = self.pair
        if pair is None and len(self.candidates) == 2 and self.target.winner in ("first", "second"):
            pair = Pair(0, 1) if self.target.winner == "first" else Pair(1, 0)
        if pair is None:
            return None
        return PreferencePair(
            self.id,
            self.task,
            self.prompt,
            self.context,
            self.candidates[pair.chosen],
            self.candidates[pair.rejected],
            pair.chosen_score,
            pair.rejected_score,
            self.criteria,
            self.tags,
        )

    def as_comparison(self) -> Example:
        """Return the example as one that a judge can be trained and tested on.

        A made pair becomes two candidates and their winner, without scores. Whether the winner
        comes first depends on the id; over many rows it does in half of them. Any other
        example is returned as it is.
        """
        if self.pair is None:
            return self
        chosen, rejected = (self.candidates[i] for i in (self.pair.chosen, self.pair.rejected))
        is_first = hashlib.sha256(self.id.encode(errors="surrogatepass")).digest()[0] % 2 == 0
        return replace(
            self,
            candidates=(chosen, rejected) if is_first else (rejected, chosen),
            target=Target(winner="first" if is_first else "second"),
            pair=None,
        )
