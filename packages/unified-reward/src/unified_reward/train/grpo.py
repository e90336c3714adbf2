"""Reinforcement learning of a policy in a recipe, by the rewards of judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.reward_functions import open_reward
from unified_reward.train.rollouts import GroupRewards
from unified_reward_client import RewardSet, RewardTerm


_WIN = "win:"
"""Begins the reference of a judge that is asked for win rates."""


@dataclass(frozen=True)
class PolicyGRPO:
    """Reinforcement learning of a policy in a recipe."""

    policy: str
    """A folder, the name of a registered policy, or a hub id of a diffusers pipeline."""
    prompts: Path
    """A file of rows with prompts."""
    diffusion: DiffusionGRPO
    """Options for a diffusers pipeline."""
    rewards: tuple[str | RewardTerm, ...] = ()
    """Each a judge, ``win:JUDGE`` for its win rates in the group, ``MODULE:FUNCTION``, or one of
    these as the ``judge`` of a term; empty for the judge that the recipe trains."""
    held_out_rewards: tuple[str, ...] = ()
    """Rewards of the held-out prompts that are measured, and never trained on."""

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if len({*names}) < len(names):
            raise ConfigError(f"a reward is named twice: {', '.join(names)}")
        weights = self.diffusion.weights
        if self.rewards and weights and len(weights) != len(names):
            raise ConfigError(f"{len(weights)} weights for {len(names)} rewards")
        if weights and any(term.weight != 1 for term in self.rewards if not isinstance(term, str)):
            raise ConfigError("a reward has a weight of its own; leave out weights")
        if self.held_out_rewards and not self.diffusion.held_out:
            raise ConfigError("rewards of held-out prompts need some: give held_out")
        wins = [reward for reward in self.held_out_rewards if reward.startswith(_WIN)]
        if wins:
            raise ConfigError(f"{wins[0]}: win rates in a group are 0.5 in the mean, always")

    @property
    def terms(self) -> list[RewardTerm]:
        """Rewards with their weights and spread floors."""
        plain = [_term(RewardTerm(r) if isinstance(r, str) else r) for r in self.rewards]
        weights = self.diffusion.weights or [term.weight for term in plain]
        return [
            replace(term, weight=weight, min_spread=term.min_spread or self.diffusion.min_spread)
            for term, weight in zip(plain, weights, strict=False)
        ]

    @property
    def references(self) -> list[str]:
        """References of all judges and functions, each once."""
        return [*dict.fromkeys([*(term.judge for term in self.terms), *self.held_out_rewards])]


def _term(term: RewardTerm) -> RewardTerm:
    if not term.judge.startswith(_WIN):
        return term
    return replace(term, judge=term.judge.removeprefix(_WIN), form="win_rate")


def learn_from_judges(
    config: PolicyGRPO, out: Path, log: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Open the judges and train the policy by their rewards; see `train_pipeline`.

    Args:
        config: Policy, prompts, rewards and settings.
        out: Folder of the new policy and of the run's state.
        log: Called with one sentence for each row or group that is left out.

    Returns:
        As `train_pipeline`, and ``left_out``, the number of rows that could not be used.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: No prompt can be used.
        ModelError: A judge or the policy cannot be loaded or trained.
    """
    opened = {reference: open_reward(reference) for reference in config.references}
    rewards = GroupRewards(
        opened,
        patience_s=config.diffusion.patience_s,
        opponents=config.diffusion.opponents,
        reward_set=RewardSet(config.terms),
    )
    policy = checkpoint_path(config.policy)
    report = train_pipeline(policy, config.prompts, rewards, config.diffusion, out, log)
    return report | {"left_out": report["rows"].get("left_out", 0)}
