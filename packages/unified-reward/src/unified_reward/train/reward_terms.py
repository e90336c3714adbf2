"""Rewards as they are written on the command line and in recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unified_reward.core.errors import ConfigError
from unified_reward_client import RewardTerm


_WIN = "win:"
"""Begins the reference of a judge that is asked for win rates."""


def reward_terms(
    rewards: Sequence[str | RewardTerm], weights: Sequence[float] = (), min_spread: float = 0.0
) -> list[RewardTerm]:
    """Rewards as terms of a set.

    Args:
        rewards: References of judges and functions, ``win:JUDGE``, or terms whose ``judge`` is
            such a reference.
        weights: Weight of each; empty for those of the terms.
        min_spread: Spread floor of those without one.

    Raises:
        ConfigError: A name is there twice, or there is not a weight for each.

    >>> win, style = reward_terms(["win:a", RewardTerm("b", aspect="style")], [1.0, 0.5])
    >>> win.judge, win.form, style.name, style.weight
    ('a', 'win_rate', 'b.style', 0.5)
    """
    terms = [each if isinstance(each, RewardTerm) else RewardTerm(each) for each in rewards]
    names = [term.name for term in terms]
    if len({*names}) < len(names):
        raise ConfigError(f"a reward is named twice: {', '.join(names)}; give each term a name")
    if weights and len(weights) != len(terms):
        raise ConfigError(f"{len(weights)} weights for {len(terms)} rewards")
    if weights and any(term.weight != 1 for term in terms):
        raise ConfigError("weights are given twice: leave them out, or out of the terms")
    return [
        replace(
            term,
            judge=term.judge.removeprefix(_WIN),
            form="win_rate" if term.judge.startswith(_WIN) else term.form,
            weight=weight,
            min_spread=term.min_spread or min_spread,
        )
        for term, weight in zip(terms, weights or [term.weight for term in terms], strict=True)
    ]
