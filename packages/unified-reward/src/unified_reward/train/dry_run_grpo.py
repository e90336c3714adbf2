"""Dry run of the reinforcement learning of a policy: everything except the weights.

Pipeline, adapters, window, prompts and calls of the networks are the real ones, on networks that
have shapes and no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from unified_reward.core.errors import ConfigError, ModelError, one_line
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Task
from unified_reward.judges.registry import kind_of
from unified_reward.policies import Denoising, Size, sampling_options
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.layouts import walk
from unified_reward.policies.noise_levels import prediction_type
from unified_reward.policies.observation import Call, networks, observe
from unified_reward.policies.prompt_calls import BROKEN
from unified_reward.train.dry_run import DryRun, adapted, memory_report, not_here
from unified_reward.train.dry_run_dpo import own_resolution, patch_tokens, refuse_sharding
from unified_reward.train.dry_run_grpo_vlm import AnswersDryRun, dry_run_answers
from unified_reward.train.group_rewards import read_prompts
from unified_reward.train.group_sampler import HELD_OUT_SAMPLES, GroupSampler
from unified_reward.train.grpo import PolicyGRPO
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.latents import Resolution, padding_frames
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.loops import build_accelerator
from unified_reward.train.meta_models import build_meta_pipeline
from unified_reward.train.meta_prompts import embedded_prompt
from unified_reward.train.policy_updates import AdaptedNetworks
from unified_reward.train.precision import frozen_bytes, frozen_dtype
from unified_reward.train.reward_functions import is_function


_GIB = 2**30
_KEPT_LATENTS = 4
"""Latents kept of a recorded step beside the arguments of the networks: before it, after it, the
mean, and the prediction."""


@dataclass(frozen=True, kw_only=True)
class PipelineDryRun(DryRun):
    """Sizes and costs of the reinforcement learning of a pipeline, and what is missing for it."""

    rewards: tuple[str, ...]
    """Names of the rewards; empty for the judge that the recipe trains."""
    window: tuple[int, int] | None
    """First and last step that may be stochastic, from 0; None for DiffusionNFT."""
    rollout_gib: Mapping[str, float]
    """Memory of a process for the samples of a step until they are learned from: on the GPU what
    is ``recorded`` of them, in main memory the ``samples``."""
    network_calls: Mapping[str, int]
    """Network calls for one sample, in a step of all processes: ``sampling``; ``training``, with
    gradients; ``comparing`` with the reference or the old policy; and ``held_out`` on average."""


def dry_run_grpo(config: PolicyGRPO, launch: str = "") -> PipelineDryRun | AnswersDryRun:
    """Build everything of the reinforcement learning of a policy except its weights.

    Args:
        config: The policy, its prompts, rewards and the options of the training.
        launch: A configuration of accelerate, see `read_launch_config`; empty for one process.

    Raises:
        ConfigError: Window, step rule, adapters, sizes, rewards or launcher do not fit.
        DataError: No prompt can be used.
        ModelError: The policy's folder is of another kind, or its steps cannot be recorded.
    """
    launcher = read_launch_config(launch) if launch else LaunchConfig("")
    absent = _absent_rewards(config)
    if config.vlm:
        found = dry_run_answers(config.policy, config.prompts, config.vlm, launcher)
        return replace(found, lacking=(*absent, *found.lacking))
    return _diffusion(config, cast("DiffusionGRPO", config.diffusion), launcher, absent)


def _diffusion(
    config: PolicyGRPO, training: DiffusionGRPO, launcher: LaunchConfig, lacking: list[str]
) -> PipelineDryRun:
    optim = training.optim
    _check_launcher(launcher, training)
    own = DiffusionPolicy(
        build_meta_pipeline(config.policy),
        sampling_options(checkpoint_path(config.policy), Denoising, vars(training.sampling)),
        name=config.policy,
        batch_size=1,
    )
    policy, parts = own.with_options(training.rollout), nn.ModuleDict(networks(own.pipeline))
    parameters = _count(parts)
    dtype = frozen_dtype(training.dtype, training.precision, optim.lora_rank, on_gpu=True)
    frozen = frozen_bytes(own.pipeline, dtype)
    trained = [*AdaptedNetworks(policy, optim).trained.values()]
    if training.rule == "flow" and prediction_type(own.pipeline.scheduler) != "flow":
        raise ConfigError(f"rule: flow is for flow models, and {config.policy} is none; use ddim")
    sampler = GroupSampler(own, [], training, build_accelerator("no"))
    lacking += not_here(config.policy)
    rows = training.prompts_per_step
    n = _number_of_prompts(config.prompts, policy, training, lacking)
    rollout, evaluation = _Sampling(policy), _Sampling(own)
    decay = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    return PipelineDryRun(
        model=type(next(iter(parts.values()))).__name__,
        parameters=parameters,
        adapters=adapted(parts),
        wrapped={},
        tokens={"sample": rollout.tokens} if rollout.tokens else {},
        latent=rollout.latent,
        dtype=dtype,
        lacking=tuple(lacking),
        **_with_copies(training, memory_report(launcher, [{"params": trained, **decay}], frozen)),
        launch=f"{launcher.name}, {launcher.sharding}" if launcher.name else "",
        processes=launcher.processes,
        per_step={"prompts": rows, "samples": rows * training.group},
        steps_per_epoch=math.ceil(n / rows) if n else None,
        epochs=round(optim.steps * rows / n, 2) if n else None,
        rewards=tuple(term.name for term in config.terms),
        window=sampler.window_range if training.algorithm == "grpo" else None,
        rollout_gib=_rollout_gib(training, rollout, launcher.processes),
        network_calls=_network_calls(training, rollout, evaluation),
    )


def _check_launcher(launcher: LaunchConfig, training: DiffusionGRPO) -> None:
    refuse_sharding(launcher)
    if training.prompts_per_step < launcher.processes:
        raise ConfigError(
            f"prompts_per_step is {training.prompts_per_step}, of which {launcher.processes} "
            "processes need at least one each"
        )


def _count(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def _absent_rewards(config: PolicyGRPO) -> list[str]:
    """Rewards that would be downloaded.

    Raises:
        ConfigError: A reference is neither a judge's nor a function's.
    """
    judges = [each for each in config.references if not is_function(each)]
    judges = [each for each in judges if kind_of(each) == "checkpoint"]
    return [text.replace("weights", "reward", 1) for each in judges for text in not_here(each)]


def _number_of_prompts(
    file: Path, policy: DiffusionPolicy, training: DiffusionGRPO, lacking: list[str]
) -> int:
    """Number of prompts that are trained; 0 without a file."""
    if not is_file(file):
        lacking.append(f"prompts: there is no {file}")
        return 0
    reasons: list[str] = []
    prompts, rows = read_prompts(file, policy.tasks, reasons.append)
    if reasons:
        unusable = sum(rows.values()) - len(prompts)
        lacking.append(f"prompts: {unusable} cannot be used, the first: {reasons[0]}")
    n = max(0, len(prompts) - training.held_out)
    if n < training.prompts_per_step:
        lacking.append(f"prompts: {n} are left for steps of {training.prompts_per_step}")
    return n


def _with_copies(training: DiffusionGRPO, report: dict[str, Any]) -> dict[str, Any]:
    """Memory with the copies of the trained weights beside those that the optimiser moves."""
    copies = {"old_policy": training.algorithm == "nft", "average": bool(training.ema_decay)}
    memory = {**report["memory_gib"]}
    total = memory.pop("total")
    for name in (name for name, is_kept in copies.items() if is_kept):
        memory[name] = round(4 * report["trained"] / _GIB, 3)
        total += memory[name]
    return report | {"memory_gib": {**memory, "total": round(total, 3)}}


class _Sampling:
    """Sizes of the sampling of a policy, from the calls of its networks on the meta device."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Observe two steps of one sample.

        Raises:
            ConfigError: The pipeline cannot be tried without weights.
        """
        pipeline, size = policy.pipeline, _size(policy)
        try:
            run = _run(policy, size)
            (step,) = observe(pipeline, run).steps
            n = len(step.calls)
            two_steps = observe(pipeline, run, result=lambda like: like, max_calls=2 * n)
        except (ModelError, *BROKEN) as error:
            raise ConfigError(
                f"{policy.name}: a {type(pipeline).__name__} cannot be tried without weights and "
                f"tokenizers: {one_line(error)}"
            ) from error
        self.steps = policy.steps or 0
        self.passes = sum(len(call.output) for call in step.calls)
        """Network calls for one sample in a step, with those of guidance."""
        first, second = (
            {id(tensor): tensor.nbytes for call in calls for tensor in _tensors(call)}
            for calls in (two_steps.calls[:n], two_steps.calls[n:])
        )
        self.shared_bytes = sum(first[key] for key in first.keys() & second.keys())
        """Arguments that all steps of a sample share, such as its embeddings."""
        self.own_bytes = sum(first.values()) - self.shared_bytes
        """Arguments of a step, such as its latents."""
        self.latent, self.latent_bytes = tuple(step.sample.shape[1:]), step.sample.nbytes
        self.sample_bytes = size.height * size.width * 3 * (size.frames or 1)
        channels: Any = next(iter(networks(pipeline).values())).config
        self.tokens = (
            self.latent[0]
            if len(self.latent) == 2
            else patch_tokens(pipeline, self.latent, channels.get("in_channels") or 1)
        )


def _size(policy: DiffusionPolicy) -> Size:
    resolution, stride = own_resolution(policy, Resolution()), policy.temporal_stride
    frames = resolution.frames or 1
    return Size(
        resolution.height or 0,
        resolution.width or 0,
        frames + padding_frames(frames, stride) if stride else None,
    )


def _run(policy: DiffusionPolicy, size: Size) -> Callable[[], object]:
    """Run of the pipeline for one sample, with guidance and embeddings in place of a prompt."""
    is_edit = Task.IMAGE_EDITING in policy.tasks
    source = PILImage.new("RGB", (size.width, size.height)) if is_edit else None
    own = policy.inputs("", 1, source, size)
    inputs = own | embedded_prompt(policy, 1)
    scales = [name for name in inputs if name.endswith(("guidance_scale", "cfg_scale"))]
    inputs |= {name: own.get(name, policy.takes[name].default) for name in scales}
    # Guidance takes as many embeddings as the prompt.
    inputs |= {
        f"negative_{name}": torch.empty_like(value)
        for name, value in inputs.items()
        if "prompt" in name and isinstance(value, Tensor) and f"negative_{name}" in policy.takes
    }
    few = {"num_inference_steps": 3, "output_type": "np", "generator": [torch.Generator()]}

    def run() -> object:
        with torch.no_grad():
            return policy.pipeline(**{**inputs, **few})

    return run


def _tensors(call: Call) -> Iterator[Tensor]:
    return (value for _, value in walk(call.arguments) if isinstance(value, Tensor))


def _rollout_gib(training: DiffusionGRPO, rollout: _Sampling, processes: int) -> dict[str, float]:
    samples = math.ceil(training.prompts_per_step / processes) * training.group
    recorded = rollout.latent_bytes
    if training.trained_steps:
        step = rollout.own_bytes + _KEPT_LATENTS * rollout.latent_bytes
        recorded += rollout.shared_bytes + training.trained_steps * step
    sizes = {"recorded": samples * recorded, "samples": samples * rollout.sample_bytes}
    return {name: round(size / _GIB, 3) for name, size in sizes.items()}


def _network_calls(
    training: DiffusionGRPO, rollout: _Sampling, evaluation: _Sampling
) -> dict[str, int]:
    samples = training.prompts_per_step * training.group
    updated, passes = samples * training.updates, rollout.passes
    if training.algorithm == "nft":
        trained = updated * training.nft.draws
        compared = 2 * trained
    else:
        trained = updated * training.trained_steps * passes
        # Without a penalty the reference is a figure only, for which one step is enough.
        compared = trained if training.beta else updated * passes
    held_out = training.held_out * HELD_OUT_SAMPLES * evaluation.steps * evaluation.passes
    return {
        "sampling": samples * rollout.steps * passes,
        "training": trained,
        "comparing": compared,
        "held_out": round(held_out / training.held_out_every),
    }
