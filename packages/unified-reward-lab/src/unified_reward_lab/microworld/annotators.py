"""Simulated annotators who label training examples: exact, noisy, biased, or blind to something.

An annotator knows the utilities of the candidates, never their pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Winner

from .captions import FACT_KINDS
from .utilities import TIE_MARGIN


_NAMES = "noiseless, noisy:T, position:B, verbosity:B, blind:KIND"


@dataclass(frozen=True)
class Annotator:
    """Noise and biases by which labels differ from the true utilities; by default there are none.

    Raises:
        ConfigError: The temperature is negative or the blind kind unknown.
    """

    temperature: float = 0.0
    """Bradley-Terry: P(first) = sigmoid((u1 - u2) / temperature); 0 is the exact comparison."""
    position: float = 0.0
    """Added to the utility of the first candidate of a comparison."""
    verbosity: float = 0.0
    """Added to the utility of an answer, times words / 10 (at most once)."""
    blind: str = ""
    """A kind of fact (see ``FACT_KINDS``) whose errors this annotator does not notice."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(
                f"an annotator's temperature must be at least 0, given {self.temperature}"
            )
        if self.blind and self.blind not in FACT_KINDS:
            raise ConfigError(
                f"an annotator can be blind to {', '.join(FACT_KINDS)}; given {self.blind!r}"
            )

    def perceived(self, utility: float, text: str = "") -> float:
        """Utility as this annotator perceives it, raised by the length of an answer.

        Args:
            utility: True utility, 0 to 1.
            text: The answer; empty for images and videos.
        """
        return utility + self.verbosity * min(1.0, len(text.split()) / 10)

    def score(self, perceived: float, rng: np.random.Generator) -> float:
        """Score in [0, 1]: the perceived utility plus Gumbel noise of mean 0, clipped.

        The difference of two Gumbel draws is logistic, so that scores and preferences of an
        annotator follow one Bradley-Terry model.
        """
        noise = self.temperature * (rng.gumbel() - np.euler_gamma)
        return float(min(1.0, max(0.0, perceived + noise)))

    def win_share(self, first: float, second: float) -> float:
        """Expected share of a win of the first of two perceived utilities, a tie counted half."""
        gap = first + self.position - second
        if _is_tie(gap):
            return 0.5
        if not self.temperature:
            return float(gap > 0)
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, gap / self.temperature))))

    def prefer(self, first: float, second: float, rng: np.random.Generator) -> Winner:
        """Winner of two perceived utilities; a tie where they differ by at most 0.02."""
        if _is_tie(first + self.position - second):
            return "tie"
        share = self.win_share(first, second)
        return "first" if (rng.random() if self.temperature else 0.5) < share else "second"


def _is_tie(gap: float) -> bool:
    return abs(gap) <= TIE_MARGIN + 1e-9


NOISELESS = Annotator()


def annotator(name: str) -> Annotator:
    """Make an annotator by name.

    >>> annotator("noisy:0.1")
    Annotator(temperature=0.1, position=0.0, verbosity=0.0, blind='')

    Args:
        name: ``noiseless``, ``noisy:0.1``, ``position:0.3``, ``verbosity:0.2``, ``blind:colour``.

    Raises:
        ConfigError: There is no such annotator.
    """
    kind, _, value = name.partition(":")
    try:
        match kind:
            case "noiseless" if not value:
                return NOISELESS
            case "noisy":
                return Annotator(temperature=float(value))
            case "position":
                return Annotator(position=float(value))
            case "verbosity":
                return Annotator(verbosity=float(value))
            case "blind" if value:
                return Annotator(blind=value)
    except ValueError as error:
        raise ConfigError(f"annotator {name!r}: {value!r} is not a number") from error
    raise ConfigError(f"unknown annotator {name!r}; there are {_NAMES} (T and B are numbers)")
