"""Requests to a model and its answers: one user turn each.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unified_reward.core.verdicts import Failed, Unparsed


if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


_ROUNDING = 1e-2
"""Log-probabilities may be above 0 by this: servers round the alternatives that are summed."""


@dataclass(frozen=True)
class ValueEstimate:
    """Values that a scalar model gives a candidate, in log-odds.

    Raises:
        ValueError: A number is not finite, or a deviation is below 0.
    """

    means: tuple[float, ...]
    """The overall value, then that of each aspect."""
    sigmas: tuple[float, ...] = ()
    """Their standard deviations; empty if the model gives none."""

    def __post_init__(self) -> None:
        numbers = (*self.means, *self.sigmas)
        if not all(map(math.isfinite, numbers)) or min(self.sigmas, default=0.0) < 0:
            raise ValueError(
                f"values {self.means} with deviations {self.sigmas} are not numbers; "
                "try another dtype"
            )


class Place(NamedTuple):
    """A place within a generated answer at which the probabilities of choices are wanted."""

    pattern: str
    """Regular expression; a choice begins where its last match ends."""
    choices: tuple[str, ...]
    """Alternatives that begin with different tokens; the rest of the answer follows them."""


@dataclass(frozen=True)
class Request:
    """One user turn for a model, ready to send: text and decoded images, in order."""

    parts: tuple[str | PILImage, ...]
    choices: tuple[str, ...] = ()
    """Complete alternative answers whose probabilities are wanted."""
    verdict_prefix: str = ""
    """Text after which the choice is scored, at its last occurrence in the generated answer. Empty:
    the choice is the whole answer, and nothing need be generated."""
    max_new_tokens: int = 256
    places: tuple[Place, ...] = ()
    """Further places to read probabilities at; for a request without ``choices``."""

    @property
    def wants_logprobs(self) -> bool:
        """True if the probabilities of some choices are wanted."""
        return bool(self.choices or self.places)

    @property
    def images(self) -> list[PILImage]:
        """Images of the turn, in order."""
        return [part for part in self.parts if not isinstance(part, str)]


@dataclass(frozen=True)
class Answer:
    """Reply of a model to one request.

    Raises:
        ValueError: A log-probability is not a number or above 0, or every choice is impossible.
    """

    text: str
    choice_logprobs: tuple[float, ...] | None = None
    """Log-probability of each choice, in nats, not normalised over the choices; -inf for one that
    is impossible; None if the model does not give it."""
    votes: tuple[str, ...] = ()
    """Further answers to the same request, sampled."""
    notes: tuple[str, ...] = ()
    """Differences from the request as it was given, such as images that were scaled."""
    place_logprobs: tuple[tuple[float, ...] | None, ...] = ()
    """Log-probabilities of the choices of each place, as of ``choice_logprobs``; None for a place
    that the answer lacks."""

    def __post_init__(self) -> None:
        for logprobs in (self.choice_logprobs, *self.place_logprobs):
            if logprobs is None:
                continue
            if not all(one <= _ROUNDING for one in logprobs):
                raise ValueError(
                    f"log-probabilities {logprobs} of the choices are not numbers <= 0; "
                    "try another dtype"
                )
            if max(logprobs) == -math.inf:
                raise ValueError("every choice is impossible: all log-probabilities are -inf")


class Model(Protocol):
    """A model that answers requests: a local checkpoint, a server, a script."""

    name: str

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer | Failed | Unparsed]:
        """Answer every request: same length, same order; one bad item fails alone.

        ``Unparsed`` where the model answered, and its answer has no text.
        """
        ...
