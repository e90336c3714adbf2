"""Rewards of a judge's own verdicts: right, well-formed, consistent and not too long.

Pure functions of answers that are read already. An answer that cannot be read is an answer of the
policy, not a failure of the reward: it is not right and agrees with nothing, so that these terms
are 0 by their definition. Callers count such answers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Winner
from unified_reward.data.example_file import MIRRORED
from unified_reward.pairs.judge_answers import PairAnswer


READABLE = 0.5
"""Format of an answer whose verdict can be read, but which is not exactly in the family's form."""


@dataclass(frozen=True)
class VerdictReward:
    """Weights of the terms, each >= 0, and the cap of the length; the reward is the weighted sum.

    UnifiedReward-Think (arXiv:2505.03318) adds accuracy and format, unweighted; consistency and
    length are this project's.
    """

    accuracy: float = 1.0
    format: float = 1.0
    consistency: float = 0.5
    length: float = 1.0
    cap: int = 4096
    """Length at which the penalty is -1, in tokens, > 0."""
    margin: int = 819
    """Tokens below the cap over which the penalty falls from 0, between 0 and the cap. DAPO's are
    4,096 of 20,480, a fifth."""

    def __post_init__(self) -> None:
        weights = (self.accuracy, self.format, self.consistency, self.length)
        if not all(0 <= weight < math.inf for weight in weights):
            raise ConfigError(f"weights of rewards are finite and >= 0, not {weights}")
        if self.consistency >= self.accuracy:
            raise ConfigError(
                f"accuracy must weigh more than consistency, not {self.accuracy:g} and "
                f"{self.consistency:g}: answers that agree and are wrong would pay like right ones"
            )
        if not 0 <= self.margin <= self.cap or self.cap < 1:
            raise ConfigError(
                f"margin is between 0 and the cap, which is above 0, not {self.margin} and "
                f"{self.cap}"
            )

    def total(self, terms: Terms) -> float:
        """Weighted sum of the terms of an answer."""
        return sum(getattr(self, name) * term for name, term in terms._asdict().items())


class Terms(NamedTuple):
    """Terms of the reward of an answer, before their weights."""

    accuracy: float
    """1 for the right outcome, of which a tie is one, else 0."""
    format: float
    """1 for exactly the family's form, `READABLE` for another readable answer, else 0. The
    published code only matches from the start, so that trailing text passes there."""
    consistency: float
    """Share of the answers to the swapped pair that state the same outcome for the same
    candidates, in [0, 1]; an answer that cannot be read agrees with none."""
    length: float
    """See `overlong_penalty`."""


def overlong_penalty(n_tokens: int, cap: int, margin: int) -> float:
    """Soft penalty of a long answer, 0 to -1.

    Yu et al. 2025 (DAPO), arXiv:2503.14476, Eq. 13: 0 up to ``cap - margin`` tokens, from there
    falling linearly to -1 at ``cap``. A margin of 0 is a hard cap.

    >>> [overlong_penalty(n, cap=100, margin=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    over = n_tokens - (cap - margin)
    if over <= 0:
        return 0.0
    return -min(1.0, over / margin) if margin else -1.0


def score_answers(answers: Sequence[PairAnswer], reward: VerdictReward) -> list[Terms]:
    """Terms of each answer, among all answers to both orders of its pair.

    Raises:
        ValueError: A pair has answers to one order only.
    """
    stated: dict[tuple[str, bool], list[Winner | None]] = defaultdict(list)
    for answer in answers:
        mirrored = MIRRORED[answer.winner] if answer.winner else None
        stated[answer.pair, answer.is_swapped].append(mirrored)
    terms: list[Terms] = []
    for answer in answers:
        others = stated.get((answer.pair, not answer.is_swapped))
        if not others:
            raise ValueError(f"pair {answer.pair!r} has answers to one order only")
        is_readable = answer.winner is not None
        terms.append(
            Terms(
                accuracy=float(answer.is_right),
                format=1.0 if answer.is_exact else READABLE * is_readable,
                consistency=is_readable * others.count(answer.winner) / len(others),
                length=overlong_penalty(answer.n_tokens, reward.cap, reward.margin),
            )
        )
    return terms
