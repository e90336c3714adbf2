"""Reinforcement learning of a policy in a recipe, by the rewards of judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.judges.registry import DEFAULT_OPTIONS, JudgeOptions
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.grpo_answers import train_vlm
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.grpo_vlm import VLMGRPO
from unified_reward.train.reward_functions import open_reward
from unified_reward.train.reward_terms import reward_terms
from unified_reward.train.run_history import tracker_names
from unified_reward_client import RewardSet, RewardTerm


@dataclass(frozen=True)
class PolicyGRPO:
    """Reinforcement learning of a policy in a recipe: give ``vlm`` or ``diffusion``, not both."""

    policy: str
    """A folder, the name of a registered policy, or a hub id."""
    prompts: Path
    """A file of rows with prompts."""
    diffusion: DiffusionGRPO | None = None
    """Options for a diffusers pipeline."""
    vlm: VLMGRPO | None = None
    """Options for a vision-language model."""
    rewards: tuple[str | RewardTerm, ...] = ()
    """Each a judge, ``win:JUDGE`` for its win rates in the group, ``MODULE:FUNCTION``, or a term
    whose ``judge`` is one of these; empty for the judge that the recipe trains."""
    held_out_rewards: tuple[str, ...] = ()
    """Judges and functions that score samples of the held-out prompts and train nothing."""
    judges: JudgeOptions = DEFAULT_OPTIONS
    """Options of judges, those that apply to each; keys of servers are in the environment."""

    def __post_init__(self) -> None:
        if self.judges.api_key or self.judges.extra_headers:
            raise ConfigError("keys of servers are never written into a run: use the environment")
        if (self.vlm is None) == (self.diffusion is None):
            raise ConfigError("grpo takes either vlm or diffusion")
        if self.rewards:
            reward_terms(self.rewards, self.training.weights)
        if self.held_out_rewards and not self.training.held_out:
            raise ConfigError("held_out_rewards need held_out, the number of prompts")
        if wins := [each for each in self.held_out_rewards if each.startswith("win:")]:
            raise ConfigError(f"held-out {wins[0]}: win rates in a group are 0.5 in the mean")

    @property
    def training(self) -> VLMGRPO | DiffusionGRPO:
        """The options that were given."""
        return cast("VLMGRPO | DiffusionGRPO", self.vlm or self.diffusion)

    @property
    def terms(self) -> list[RewardTerm]:
        """Rewards with their weights and spread floors."""
        return reward_terms(self.rewards, self.training.weights, self.training.min_spread)

    @property
    def references(self) -> list[str]:
        """Judges and functions, each once."""
        return [*dict.fromkeys([*(term.judge for term in self.terms), *self.held_out_rewards])]


def learn_from_judges(
    config: PolicyGRPO, out: Path, log: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Open the judges and train the policy by their rewards: `train_pipeline`, `train_vlm`.

    Args:
        config: Policy, prompts, rewards and settings.
        out: Folder of the new policy and of the run's state.
        log: Called with one sentence for each row or group that is left out.

    Returns:
        As these, and ``left_out``, the number of rows that could not be used.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: No prompt can be used.
        ModelError: A judge or the policy cannot be loaded or trained.
    """
    policy, training, terms = checkpoint_path(config.policy), config.training, config.terms
    if isinstance(training, DiffusionGRPO):
        tracker_names(training.report_to)  # before any judge is loaded
    opened = {reference: open_reward(reference, config.judges) for reference in config.references}
    rewards = GroupRewards(
        {term.judge: opened[term.judge] for term in terms},
        patience_s=training.patience_s,
        opponents=training.opponents,
        reward_set=RewardSet(terms),
    )
    others = {name: opened[name] for name in config.held_out_rewards}
    if isinstance(training, VLMGRPO):
        measured = GroupRewards(others, patience_s=training.patience_s) if others else None
        return train_vlm(policy, config.prompts, rewards, training, out, log, measured)
    report = train_pipeline(policy, config.prompts, rewards, training, out, log, others)
    return report | {"left_out": report["rows"].get("left_out", 0)}
