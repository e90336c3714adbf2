"""Outputs of several models for common prompts: what an evaluation and an arena start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from unified_reward.core.samples import Candidate, Example


Problem = Literal["missing", "unmatched", "duplicate", "broken", "failed", "unparsed"]
CATEGORY = "category"
"""Tag of a prompt with its categories, joined by `CATEGORY_SEPARATOR`."""
CATEGORY_SEPARATOR = "; "


class MissingOutput(NamedTuple):
    """An output that takes no part, listed and never averaged away."""

    model: str
    prompt: str
    """Id of the prompt; of an unmatched file its name."""
    reason: str
    kind: Problem
    reward: str = ""
    """The reward that it has no value of; empty for all."""


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of models, all for the same prompts."""

    prompts: Mapping[str, Example]
    """Prompts by id, in the order of their file, without candidates."""
    outputs: Mapping[str, Mapping[str, tuple[Candidate, ...]]]
    """By model, in the order given, and by id of the prompt; a prompt without any is missing."""
    missing: tuple[MissingOutput, ...] = ()
    notes: tuple[str, ...] = ()
    """Oddities that change no figure, such as models with different numbers of files."""

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order given."""
        return list(self.outputs)

    def categories(self, prompt: str) -> list[str]:
        """Categories of a prompt; empty without any."""
        text = self.prompts[prompt].tags.get(CATEGORY, "")
        return text.split(CATEGORY_SEPARATOR) if text else []


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of the outputs of two models for one prompt, as a judge or a person decided."""

    prompt: str
    a: str
    b: str
    probability: float
    """Probability that the output of ``a`` is better, a tie counted half, in [0, 1]."""
    consistent: bool | None = None
    """True if both orders named the same winner; None if only one order was asked."""
    orders: tuple[float, ...] = ()
    """Probability of ``a`` by order; empty if only one order was asked."""

    def mirrored(self) -> Comparison:
        """Return the comparison seen from ``b``."""
        orders = tuple(1 - p for p in self.orders)
        return Comparison(
            self.prompt, self.b, self.a, 1 - self.probability, self.consistent, orders
        )


@dataclass(frozen=True)
class RewardValues:
    """Everything that one reward says about the outputs."""

    name: str
    scores: Mapping[str, Mapping[str, Sequence[float]]]
    """Score of each output by model and prompt, in units of the judge's own; NaN for an output
    without one, so that the k-th is always that of the k-th file. Empty for a judge that only
    compares."""
    comparisons: tuple[Comparison, ...]
    """Comparisons by the judge; empty where scores alone were asked."""
    reading_sigma: float | None = None
    """Standard deviation of repeated readings of one score, pooled over the outputs; None where
    each was read once."""
    calls: int = 0
    """Questions put to the judge; a comparison in both orders counts as two."""


def model_pairs(models: list[str]) -> list[tuple[str, str]]:
    """Pairs of models, each once, in the order given.

    >>> model_pairs(["a", "b", "c"])
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    return list(combinations(models, 2))
