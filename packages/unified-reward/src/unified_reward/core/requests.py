"""Requests to a model and its answers: one user turn each.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unified_reward.core.verdicts import Failed, Unparsed


if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class ValueEstimate(NamedTuple):
    """Values that a scalar model gives a candidate, in log-odds."""

    means: tuple[float, ...]
    """The overall value, then that of each aspect."""
    sigmas: tuple[float, ...] = ()
    """Their standard deviations; empty if the model gives none."""


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


@dataclass(frozen=True)
class Answer:
    """Reply of a model to one request."""

    text: str
    choice_logprobs: tuple[float, ...] | None = None
    """Log-probability of each choice, in nats, not normalised over the choices; None if
    the model does not give it."""
    votes: tuple[str, ...] = ()
    """Further answers to the same request, sampled."""
    notes: tuple[str, ...] = ()
    """Differences from the request as it was given, such as images that were scaled."""


class Model(Protocol):
    """A model that answers requests: a local checkpoint, a server, a script."""

    name: str

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer | Failed | Unparsed]:
        """Answer every request: same length, same order; one bad item fails alone.

        ``Unparsed`` where the model answered, and its answer has no text.
        """
        ...
