"""Scores and verdicts, the results of a judge.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from unified_reward.core.errors import UnifiedRewardError


Winner = Literal["first", "tie", "second"]
WIN_SHARES: Mapping[str, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""Share of a win that each outcome gives the first candidate."""
_ROUNDING = 1e-6
"""Part of a scale's larger side by which a score may leave it: sums in float32 end there."""


@dataclass(frozen=True)
class Scale:
    """The values a score may take. A side that is None is open.

    Raises:
        ValueError: A side or the step is not a finite number, or the scale does not rise.
    """

    low: float | None
    high: float | None
    step: float | None = None
    """Distance between the values a judge chooses from when its probabilities are read."""

    def __post_init__(self) -> None:
        numbers = [one for one in (self.low, self.high, self.step) if one is not None]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"the sides of a scale are finite numbers, not {self}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"a scale rises from low to high, unlike {self}")
        if self.step is not None and not self.step > 0:
            raise ValueError(f"the step of a scale is above 0, not {self.step:g}")

    def steps(self) -> tuple[float, ...]:
        """Every value of a closed scale, ``low`` to ``high``.

        >>> Scale(1, 5, 1).steps()
        (1.0, 2.0, 3.0, 4.0, 5.0)
        """
        if self.low is None or self.high is None or self.step is None:
            raise ValueError("an open scale, or one without a step, has no steps")
        count = round((self.high - self.low) / self.step) + 1
        return tuple(float(self.low + i * self.step) for i in range(count))

    def share(self, value: float) -> float | None:
        """Place of a value between low (0) and high (1); None where the scale is open.

        >>> Scale(1, 5).share(3.0)
        0.5
        """
        if self.low is None or self.high is None:
            return None
        return (value - self.low) / (self.high - self.low)

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
    """A value on a scale.

    Raises:
        ValueError: The value or its deviation is not a finite number, the deviation is below 0, or
            the value lies outside the scale.
    """

    value: float
    scale: Scale
    sigma: float | None = None
    """Standard deviation of the judge's own distribution over the scale, in units of the scale."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"score {self.value} is not a finite number")
        if self.sigma is not None and not 0 <= self.sigma < math.inf:
            raise ValueError(f"standard deviation {self.sigma} is not a finite number >= 0")
        low, high = self.scale.low, self.scale.high
        below = 0.0 if low is None else low - self.value
        above = 0.0 if high is None else self.value - high
        if max(below, above) > _ROUNDING * max(abs(low or 0.0), abs(high or 0.0)):
            raise ValueError(f"score {self.value:g} is outside the scale {self.scale}")

    @property
    def normalized(self) -> float | None:
        """The value moved to [0, 1]; None where the scale is open.

        >>> Score(3.0, Scale(1, 5)).normalized
        0.5
        """
        share = self.scale.share(self.value)
        return None if share is None else min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class Scored:
    """The judge gave one candidate a score, or scores by aspect, or both.

    >>> verdict = Scored(Score(4.0, Scale(1, 5)), text="Final Score: 4")
    >>> verdict.score.value, verdict.score.normalized, dict(verdict.aspects)
    (4.0, 0.75, {})
    """

    score: Score | None
    """None where the family defines aspects only."""
    aspects: Mapping[str, Score] = field(default_factory=dict[str, Score])
    text: str = ""
    notes: tuple[str, ...] = ()
    """Differences between the question as it was given and as it was put to the model."""


@dataclass(frozen=True)
class Preferred:
    """The judge compared two candidates. The three probabilities sum to one.

    A number that is not finite, or is no share, raises a ValueError.

    >>> verdict = Preferred(p_first=0.5, p_tie=0.25, p_second=0.25)
    >>> verdict.winner, verdict.probability, verdict.mirrored().winner
    ('first', 0.625, 'second')
    """

    p_first: float
    p_tie: float
    p_second: float
    aspects: Mapping[str, float] = field(default_factory=dict[str, float])
    """Share of the first candidate by aspect, in [0, 1]."""
    text: str = ""
    orders: tuple[Preferred, ...] = ()
    """Verdicts by order, all seen from the first order; empty if only one order was asked."""
    tie_kind: Literal["", "both_good", "both_bad"] = ""
    """Kind of a tie, from judges that distinguish two; empty for any other verdict."""
    notes: tuple[str, ...] = ()
    """Differences between the question as it was given and as it was put to the model."""

    def __post_init__(self) -> None:
        total = self.p_first + self.p_tie + self.p_second
        if not (min(self.p_first, self.p_tie, self.p_second) >= 0 and abs(total - 1) < 1e-6):
            raise ValueError(
                f"probabilities must be >= 0 and sum to 1, "
                f"not {self.p_first}, {self.p_tie}, {self.p_second}"
            )
        for name, share in self.aspects.items():
            if not 0 <= share <= 1:
                raise ValueError(f"share {share} of aspect {name!r} is not in [0, 1]")

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
        """True if every order named the same winner; None if only one order was asked."""
        return len({one.winner for one in self.orders}) == 1 if self.orders else None

    def mirrored(self) -> Preferred:
        """Return the verdict with the two candidates exchanged."""
        return replace(
            self,
            p_first=self.p_second,
            p_second=self.p_first,
            aspects={name: 1 - share for name, share in self.aspects.items()},
            orders=tuple(one.mirrored() for one in self.orders),
        )


@dataclass(frozen=True)
class Unparsed:
    """The judge answered, and the answer cannot be read. Never a number, never a tie.

    >>> verdict = Unparsed("no score in the answer", text="It is a fine picture.")
    >>> verdict.reason
    'no score in the answer'
    """

    reason: str
    text: str = ""


@dataclass(frozen=True)
class Failed:
    """The question could not be asked: a broken file, a server down.

    >>> verdict = Failed("a.png: cannot be opened: No such file or directory")
    >>> verdict.reason, verdict.cause
    ('a.png: cannot be opened: No such file or directory', None)
    """

    reason: str
    cause: UnifiedRewardError | None = field(default=None, compare=False, repr=False)
    """The error itself if there was one; the verbs for a single question raise it."""

    @property
    def error(self) -> str:
        """The reason, by its former name."""
        return self.reason

    @classmethod
    def from_error(cls, error: UnifiedRewardError) -> Failed:
        """Convert an error to a failure, without its traceback, which holds decoded media."""
        return cls(str(error), error.with_traceback(None))


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

    def __post_init__(self) -> None:
        if not all(score is None or math.isfinite(score) for score in self.scores):
            raise ValueError(f"scores of a ranking are finite numbers or None, not {self.scores}")
        if len({*self.order} & {*range(len(self.scores))}) < len(self.order):
            raise ValueError(f"{self.order} does not order {len(self.scores)} candidates")
