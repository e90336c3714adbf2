"""The words everything else is written in: samples, scores, verdicts, requests, errors.

Standard library only. Nothing here opens a file, knows a prompt or loads a model.

    UnifiedRewardError
    ├── ConfigError     a recipe, an option or a reference to a judge is wrong
    ├── MediaError      a picture or a clip cannot be read
    ├── DataError       a row or a file of rows is wrong
    ├── ModelError      a checkpoint cannot be loaded or cannot answer
    │   └── ServerError a server refused, timed out or answered nonsense
    └── UnparsedError   the judge answered, and the answer cannot be read
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast


if TYPE_CHECKING:
    from PIL.Image import Image as Picture


Form = Literal["score", "compare"]
Winner = Literal["first", "tie", "second"]
Layout = Literal["HWC", "CHW", "THWC", "TCHW"]
FrameRule = Literal["linspace_inclusive", "span_centres", "stride_floor"]


class UnifiedRewardError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(UnifiedRewardError):
    """A recipe, an option or a reference to a judge is wrong."""


class MediaError(UnifiedRewardError):
    """A picture or a clip cannot be read."""


class DataError(UnifiedRewardError):
    """A row, or a file of rows, is wrong."""


class ModelError(UnifiedRewardError):
    """A checkpoint cannot be loaded, or cannot answer."""


class ServerError(ModelError):
    """A server refused, timed out or answered nonsense."""


class UnparsedError(UnifiedRewardError):
    """The judge answered, and the answer cannot be read."""


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
    def form(self) -> Form:
        """``score`` for one candidate, ``compare`` for two."""
        return "score" if len(self.candidates) == 1 else "compare"

    def swapped(self) -> Sample:
        """The same comparison with the two candidates in the other order."""
        return replace(self, candidates=self.candidates[::-1])


@dataclass(frozen=True)
class Scale:
    """The values a score may take. A side that is None is open."""

    low: float | None
    high: float | None
    step: float | None = None
    """Distance between the values a judge chooses from when its probabilities are read."""

    def steps(self) -> tuple[float, ...]:
        """Every value of a closed scale, ``low`` to ``high``.

        >>> Scale(1, 5, 1).steps()
        (1.0, 2.0, 3.0, 4.0, 5.0)
        """
        if self.low is None or self.high is None or self.step is None:
            raise ValueError("an open scale, or one without a step, has no steps")
        count = round((self.high - self.low) / self.step) + 1
        return tuple(float(self.low + i * self.step) for i in range(count))

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
        )

    def __str__(self) -> str:
        low, high = ("open" if side is None else f"{side:g}" for side in (self.low, self.high))
        return f"{low} to {high}"


@dataclass(frozen=True)
class Score:
    """A value on a scale."""

    value: float
    scale: Scale
    sigma: float | None = None
    """Standard deviation of the judge's own distribution over the scale, in units of the scale."""

    @property
    def normalized(self) -> float | None:
        """The value moved to [0, 1]; None where the scale is open.

        >>> Score(3.0, Scale(1, 5)).normalized
        0.5
        """
        if self.scale.low is None or self.scale.high is None:
            return None
        return (self.value - self.scale.low) / (self.scale.high - self.scale.low)


@dataclass(frozen=True)
class Scored:
    """The judge gave one candidate a score, or scores by aspect, or both."""

    score: Score | None
    """None where the family defines aspects only."""
    aspects: Mapping[str, Score] = field(default_factory=dict[str, Score])
    text: str = ""


@dataclass(frozen=True)
class Preferred:
    """The judge compared two candidates. The three probabilities sum to one."""

    p_first: float
    p_tie: float
    p_second: float
    aspects: Mapping[str, float] = field(default_factory=dict[str, float])
    """Share of the first candidate by aspect, in [0, 1]."""
    text: str = ""
    orders: tuple[Preferred, ...] = ()
    """The verdict in each order asked, all seen from the first order; empty when one was asked."""

    def __post_init__(self) -> None:
        total = self.p_first + self.p_tie + self.p_second
        if not (min(self.p_first, self.p_tie, self.p_second) >= 0 and abs(total - 1) < 1e-6):
            raise ValueError(
                f"probabilities must be >= 0 and sum to 1, "
                f"not {self.p_first}, {self.p_tie}, {self.p_second}"
            )

    @property
    def winner(self) -> Winner:
        """The most probable outcome; an equality is a tie.

        >>> Preferred(0.45, 0.1, 0.45).winner
        'tie'
        """
        best = max(self.p_first, self.p_tie, self.p_second)
        if self.p_tie == best or self.p_first == self.p_second:
            return "tie"
        return "first" if self.p_first == best else "second"

    @property
    def probability(self) -> float:
        """Probability that the first is better, a tie counted half."""
        return self.p_first + self.p_tie / 2

    @property
    def consistent(self) -> bool | None:
        """Whether every order named the same winner; None when one order was asked."""
        return len({one.winner for one in self.orders}) == 1 if self.orders else None

    def mirrored(self) -> Preferred:
        """The same verdict with the two candidates exchanged."""
        return replace(
            self,
            p_first=self.p_second,
            p_second=self.p_first,
            aspects={name: 1 - share for name, share in self.aspects.items()},
            orders=tuple(one.mirrored() for one in self.orders),
        )


@dataclass(frozen=True)
class Unparsed:
    """The judge answered, and the answer cannot be read. Never a number, never a tie."""

    reason: str
    text: str = ""


@dataclass(frozen=True)
class Failed:
    """The question could not be asked: a broken file, a server down."""

    error: str
    cause: UnifiedRewardError | None = field(default=None, compare=False, repr=False)
    """The error itself where there was one; the verbs for a single question raise it."""


Verdict = Scored | Preferred | Unparsed | Failed


@dataclass(frozen=True)
class Ranking:
    """Candidates of one prompt, best first."""

    order: tuple[int, ...]
    """Indices of the candidates, best first; a candidate without an answer is left out."""
    scores: tuple[float | None, ...]
    """Per candidate: its score, or its mean probability to win; None without an answer."""
    verdicts: tuple[Verdict, ...]
    """Per candidate when ranked by score; per pair (i < j, row by row) when ranked by pairs."""


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
class Record:
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
        """What the sample shows: its context, then its candidates that are no words."""
        flat: list[Candidate] = [*self.sample.context]
        for one in self.sample.candidates:
            flat += one if isinstance(one, tuple) else (one,)
        return tuple(one for one in flat if isinstance(one, Image | Video))


@dataclass(frozen=True)
class Conversation:
    """A published question and its answer, kept to the letter; its sample is not known.

    Where an imported wording recognises the question, it is a `Record` with ``messages`` instead.
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


class Reading(NamedTuple):
    """What a scalar model reads of one candidate: values on the axis of log-odds."""

    means: tuple[float, ...]
    """The overall value, then one for each aspect."""
    sigmas: tuple[float, ...] = ()
    """Their standard deviations; empty where the model tells none."""


@dataclass(frozen=True)
class Request:
    """One user turn for a model, ready to send: text and opened pictures, in order."""

    parts: tuple[str | Picture, ...]
    choices: tuple[str, ...] = ()
    """Complete alternative answers whose probabilities are wanted."""
    lead: str = ""
    """Where the choice stands: right behind the last ``lead`` the model generates. Empty: the
    choice is the whole answer, and nothing need be generated."""
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Answer:
    """What a model said to one request."""

    text: str
    choice_logprobs: tuple[float, ...] | None = None
    """Log-probability of each choice, in nats, not normalised over the choices; None when the
    model cannot tell."""
    votes: tuple[str, ...] = ()
    """Further answers to the same request, sampled."""


class Model(Protocol):
    """Whatever answers requests: a local checkpoint, a server, a script."""

    name: str

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone."""
        ...
