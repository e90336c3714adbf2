"""Reinforcement learning of a diffusers pipeline from rewards: windowed GRPO, and DiffusionNFT.

The pipeline samples unmodified. Prompts, window, noise and timesteps of a step depend on the seed
and the step's number only, so that a killed run continues exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from accelerate import Accelerator

from unified_reward import policies
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.io.config import as_data
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.adapters import merge_adapters
from unified_reward.train.group_collector import GroupCollector, HeldOut
from unified_reward.train.group_rewards import GroupRewards, read_prompts
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_loop import RewardLoop
from unified_reward.train.grpo_page import RunFacts, write_run_page
from unified_reward.train.loops import build_accelerator
from unified_reward.train.offload import Turns
from unified_reward.train.policy_updates import AdaptedNetworks
from unified_reward.train.precision import Dtype, frozen_dtype, mixed_precision
from unified_reward.train.processes import Processes
from unified_reward.train.reward_functions import RewardFunction
from unified_reward.train.run_history import tracker_names
from unified_reward.train.sample_sheets import SampleSheet


def train_pipeline(
    policy: str | Path,
    prompts: Path,
    rewards: Mapping[str, BaseJudge | RewardFunction] | GroupRewards,
    config: DiffusionGRPO,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
    held_out_rewards: Mapping[str, BaseJudge | RewardFunction] = MappingProxyType({}),
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
        out: Folder of ``adapter/``, ``policy/`` with them merged, ``history.jsonl`` with a row a
            step, its page ``index.html``, and ``checkpoints/``, from which a killed run resumes.
        log: Called with the reason for each row or group that is left out.
        held_out_rewards: Rewards that are measured on the held-out prompts, and never trained.

    Returns:
        ``rows`` by status, ``prompts``, ``dtype`` of frozen weights, ``losses`` and figures by step
        (None where it had no group to learn from), ``rewards``, the mean of each by name,
        ``held_out``, pairs of step and mean reward, and ``held_out_rewards``, these by name.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: No prompt can be used.
        ModelError: The pipeline cannot be trained, a loss is not finite, or rewards fail for long.
    """
    accelerator = _accelerator(config, out)
    processes = Processes(accelerator)
    scorer = _group_rewards(rewards, config)
    others = _others(scorer.names, held_out_rewards, config)
    turns = Turns(accelerator.device, scorer, others) if config.offload else None
    maker = _load(policy, config, accelerator)
    with processes.together():  # from here on, the first has cleared what another run left
        first_log = log if processes.is_first else lambda _: None
        read, rows = read_prompts(prompts, maker.tasks, first_log)
    for each in filter(None, (scorer, others)):
        each.check_tasks({prompt.task for prompt in read}, is_measured=each is others)
    held_out, trained = _split(read, config)
    model = AdaptedNetworks(maker.with_options(config.rollout), config.optim)
    rollouts = GroupSampler(maker, trained, config, accelerator)
    judging = partial(turns.judging, maker.pipeline) if turns else nullcontext
    collector = GroupCollector(rollouts, scorer, processes, log, HeldOut(held_out, others), judging)
    trainer = RewardLoop(model, collector, config, accelerator, out)
    sheet = SampleSheet(maker, (held_out or trained)[:4], out / "samples")
    sizes = (len(trained), len(held_out))
    run = RunFacts(maker.name, scorer.names, as_data(config), *sizes, sheet.prompts)
    history = trainer.train(sheet, lambda: write_run_page(out, run, log))
    with processes.together(), trainer.result():
        if processes.is_first:
            _write(model, maker, out)
    return {"rows": rows, "prompts": len(trained)} | _report(history, _dtype(config, accelerator))


def _accelerator(config: DiffusionGRPO, out: Path) -> Accelerator:
    names = tracker_names(config.report_to)
    precision = mixed_precision(config.dtype, config.precision)
    accelerator = build_accelerator(precision, names, out / "logs")
    if config.prompts_per_step < (n := accelerator.num_processes):
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, of which {n} processes need at least "
            "one each"
        )
    return accelerator


def _dtype(config: DiffusionGRPO, accelerator: Accelerator) -> Dtype:
    """Type of frozen weights."""
    on_gpu, rank = accelerator.device.type != "cpu", config.optim.lora_rank
    return frozen_dtype(config.dtype, config.precision, rank, on_gpu=on_gpu)


def _load(policy: str | Path, config: DiffusionGRPO, accelerator: Accelerator) -> DiffusionPolicy:
    maker = policies.load(
        policy,
        vars(config.sampling),
        device=str(accelerator.device),
        dtype=_dtype(config, accelerator),
        vae_dtype="float32",
        batch_size=config.optim.batch_size,
    )
    if not isinstance(maker, DiffusionPolicy):
        raise ConfigError(f"{policy} is a vision-language model, not a diffusers pipeline")
    return maker


def _write(model: AdaptedNetworks, maker: DiffusionPolicy, out: Path) -> None:
    merge_adapters(model.adapters, out / "adapter", maker.pipeline)
    maker.pipeline.save_pretrained(out / "policy", safe_serialization=True)
    policies.write_defaults(maker.options, out / "policy")


def _others(
    rewards: Collection[str],
    held_out_rewards: Mapping[str, BaseJudge | RewardFunction],
    config: DiffusionGRPO,
) -> GroupRewards | None:
    """Rewards of the held-out prompts beside those that are trained.

    Raises:
        ConfigError: They are never measured, or one is trained too.
    """
    if not held_out_rewards:
        return None
    if not config.held_out:
        raise ConfigError("held_out_rewards are measured on held-out prompts; give held_out too")
    if both := [name for name in held_out_rewards if name in rewards]:
        raise ConfigError(f"{', '.join(both)}: a reward is trained or only measured, not both")
    return GroupRewards(held_out_rewards, patience_s=config.patience_s)


def _report(history: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """Figures by step of a whole run, of several rewards by name, and the type of its weights."""
    numbers = {
        name: [None if value is None else round(value, 9) for value in values]
        for name, values in history.items()
        if name not in ("rewards", "held_out")
    }
    names = [*history["rewards"][0]]
    measured = history["held_out"]
    others = dict.fromkeys(name for *_, by_name in measured for name in by_name)
    return {
        "dtype": dtype,
        "losses": [[step, loss] for step, loss in enumerate(numbers.pop("loss"), 1)],
        **numbers,
        "rewards": {name: [row[name] for row in history["rewards"]] for name in names},
        "held_out": [[step, reward] for step, reward, _ in measured],
        "held_out_rewards": {
            name: [[step, by_name.get(name)] for step, _, by_name in measured] for name in others
        },
    }


def _group_rewards(
    rewards: Mapping[str, BaseJudge | RewardFunction] | GroupRewards, config: DiffusionGRPO
) -> GroupRewards:
    if not isinstance(rewards, GroupRewards):
        rewards = GroupRewards(
            rewards,
            config.weights,
            min_spread=config.min_spread,
            patience_s=config.patience_s,
            opponents=config.opponents,
        )
    rewards.least = config.least
    return rewards


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
