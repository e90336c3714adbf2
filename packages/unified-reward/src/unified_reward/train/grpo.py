"""Reinforcement learning of a policy in a recipe, by the rewards of judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.judges.registry import open_judge
from unified_reward.train.grpo_answers import train_vlm
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.grpo_vlm import VLMGRPO
from unified_reward.train.rollouts import GroupRewards


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
    rewards: tuple[str, ...] = ()
    """References of judges that score; empty for the judge that the recipe trains."""

    def __post_init__(self) -> None:
        if (self.vlm is None) == (self.diffusion is None):
            raise ConfigError("grpo takes either vlm or diffusion")
        if len(set(self.rewards)) < len(self.rewards):
            raise ConfigError(f"a reward is named twice: {', '.join(self.rewards)}")

    @property
    def training(self) -> VLMGRPO | DiffusionGRPO:
        """The options that were given."""
        return cast("VLMGRPO | DiffusionGRPO", self.vlm or self.diffusion)


def learn_from_judges(
    config: PolicyGRPO, out: Path, log: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Open the judges and train the policy by their scores; see `train_pipeline` and `train_vlm`.

    Args:
        config: Policy, prompts, rewards and settings.
        out: Folder of the new policy and of the run's state.
        log: Called with one sentence for each row or group that is left out.

    Returns:
        As these, and ``left_out``, the number of rows that could not be used.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: A prompt is repeated, or no prompt can be used.
        ModelError: A judge or the policy cannot be loaded or trained.
    """
    rewards = {reference: open_judge(reference) for reference in config.rewards}
    policy = checkpoint_path(config.policy)
    if config.diffusion:
        report = train_pipeline(policy, config.prompts, rewards, config.diffusion, out, log)
        return report | {"left_out": report["rows"].get("left_out", 0)}
    training = cast("VLMGRPO", config.vlm)
    scorer = GroupRewards(
        rewards, training.weights, min_spread=training.min_spread, patience_s=training.patience_s
    )
    return train_vlm(policy, config.prompts, scorer, training, out, log)
