"""Reinforcement learning of a diffusers pipeline from rewards: windowed GRPO, and DiffusionNFT.

The pipeline samples unmodified. Prompts, window, noise and timesteps of a step depend on the seed
and the step's number only, so that a killed run continues exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward import policies
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.adapters import merge_adapters
from unified_reward.train.group_collector import GroupCollector
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_loop import RewardLoop
from unified_reward.train.loops import build_accelerator
from unified_reward.train.policy_updates import AdaptedNetworks
from unified_reward.train.processes import Processes
from unified_reward.train.reward_functions import RewardFunction
from unified_reward.train.rollouts import GroupRewards, read_prompts
from unified_reward.train.sample_sheets import SampleSheet


def train_pipeline(
    policy: str | Path,
    prompts: Path,
    rewards: Mapping[str, BaseJudge | RewardFunction] | GroupRewards,
    config: DiffusionGRPO,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a text-to-image, text-to-video or editing pipeline by the rewards of its samples.

    Under ``accelerate launch`` every process samples and scores a share of the groups of a step;
    how many there are makes no difference but rounding. The first writes the results.

    Args:
        policy: Folder or hub id of the pipeline.
        prompts: A file of rows with prompts.
        rewards: Judges or functions by name; or these with terms of their own, where ``weights``,
            ``min_spread``, ``opponents`` and ``patience_s`` of the settings do not count.
        config: Settings.
        out: Folder of ``adapter/``, of ``policy/``, the pipeline with the adapters merged, and of
            ``checkpoints/``, from which a killed run resumes.
        log: Called with the reason for each row or group that is left out.

    Returns:
        ``rows`` by status, ``prompts``, ``losses`` and the other figures by step (None where a step
        had no group to learn from), and ``held_out``, pairs of step and mean reward.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: No prompt can be used.
        ModelError: The pipeline cannot be trained, loss or gradient is not finite, or there are no
            rewards any more; the message names the state to resume from.
    """
    accelerator = build_accelerator(config.precision)
    processes = Processes(accelerator)
    if config.prompts_per_step < processes.n:
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, of which {processes.n} processes need "
            "at least one each"
        )
    size = config.optim.batch_size
    maker = policies.load(policy, device=str(accelerator.device), dtype="float32", batch_size=size)
    if not isinstance(maker, DiffusionPolicy):
        raise ConfigError(f"{policy} is a vision-language model, not a diffusers pipeline")
    read, rows = read_prompts(prompts, maker.tasks, log if processes.is_first else lambda _: None)
    scorer = rewards if isinstance(rewards, GroupRewards) else _group_rewards(rewards, config)
    scorer.check_tasks({prompt.task for prompt in read})
    held_out, trained = _split(read, config)
    model = AdaptedNetworks(maker, config.optim)
    rollouts = GroupSampler(maker, trained, config, accelerator)
    collector = GroupCollector(rollouts, scorer, processes, log, held_out)
    trainer = RewardLoop(model, collector, config, accelerator, out / "checkpoints")
    history = trainer.train(SampleSheet(maker, (held_out or trained)[:4], out / "samples"))
    with processes.together():
        if processes.is_first:
            merge_adapters(model.adapters, out / "adapter", maker.pipeline)
            maker.pipeline.save_pretrained(out / "policy", safe_serialization=True)
            policies.write_defaults(maker.options, out / "policy")
    measured = history.pop("held_out")
    figures = {
        name: [None if value is None else round(value, 9) for value in values]
        for name, values in history.items()
    }
    losses = [[step, loss] for step, loss in enumerate(figures.pop("loss"), 1)]
    return {"rows": rows, "prompts": len(trained), "losses": losses, **figures} | {
        "held_out": measured
    }


def _group_rewards(
    sources: Mapping[str, BaseJudge | RewardFunction], config: DiffusionGRPO
) -> GroupRewards:
    return GroupRewards(
        sources,
        config.weights,
        min_spread=config.min_spread,
        patience_s=config.patience_s,
        opponents=config.opponents,
    )


def _split(
    prompts: Sequence[Example], config: DiffusionGRPO
) -> tuple[list[Example], list[Example]]:
    """Held-out prompts, which the seed decides, and the others.

    Raises:
        ConfigError: Too few are left for a step, in which none may repeat.
    """
    n, seed = len(prompts), config.optim.seed
    order = np.random.default_rng([seed, 1]).permutation(n)
    out = {int(i) for i in order[: config.held_out]}
    trained = [prompt for i, prompt in enumerate(prompts) if i not in out]
    if len(trained) < config.prompts_per_step:
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, and there are {len(trained)} prompts"
            + (f" beside the {len(out)} that are held out" if out else "")
        )
    return [prompts[i] for i in sorted(out)], trained
