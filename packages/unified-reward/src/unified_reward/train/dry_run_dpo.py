"""Dry run of a policy's DPO: everything but the weights, checked before a GPU is rented.

Pairs, collator, adapters and loss are the real ones; networks live on torch's meta device.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor, nn

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import PUBLISHED_MAX_PIXELS
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies import Denoising, sampling_options
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.denoisers import Denoiser, Schedule, build_denoiser
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel, NoiseSample
from unified_reward.train.dpo_vlm import (
    VLMDPO,
    AnswerPair,
    Collator,
    ProcessedPrompts,
    trainable_answers,
)
from unified_reward.train.dry_run import (
    TRIED,
    DryRun,
    adapted,
    held,
    not_here,
    optimiser_of,
    time_report,
    try_forward,
    unfit_tokens,
)
from unified_reward.train.latents import (
    Resolution,
    first_readable,
    padding_frames,
    resolve_resolution,
)
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.meta_models import (
    build_meta_model,
    build_meta_pipeline,
    read_architecture,
)
from unified_reward.train.optim import check_lora_targets, lora_config


_PLACEHOLDER_FRAMES = 8


def dry_run_dpo(config: PolicyDPO, launch: str = "") -> DryRun:
    """Build everything of a policy's DPO but the weights.

    Args:
        config: The policy, its pairs and the options of the training.
        launch: A configuration of accelerate, see `read_launch_config`; empty for one process.

    Raises:
        ConfigError: Adapters, sizes, timesteps or launcher do not fit.
        DataError: No pair of the file can be learned.
        ModelError: The policy is a folder of another kind, or cannot be aligned.
    """
    launcher = read_launch_config(launch) if launch else LaunchConfig("")
    if config.vlm:
        return _dry_run_vlm(config, config.vlm, launcher)
    return _dry_run_diffusion(config, cast("DiffusionDPO", config.diffusion), launcher)


def _dry_run_vlm(config: PolicyDPO, options: VLMDPO, launcher: LaunchConfig) -> DryRun:
    optim = options.optim
    launcher.check_batch(launcher.processes, optim)
    architecture = read_architecture(config.policy)
    prompts = ProcessedPrompts(Chat(architecture.processor, max_pixels=options.max_pixels))
    model = build_meta_model(architecture.config)
    name, parameters = type(model).__name__, model.num_parameters()
    check_lora_targets(model, optim)
    wrapped = launcher.fsdp_layers(model)
    pairs, problems = _read_pairs(config.pairs, VLMPolicy.tasks)
    answers = (
        _trainable_answers(pairs[:TRIED], prompts, problems)
        if pairs
        else _placeholder_answers(options.max_pixels or PUBLISHED_MAX_PIXELS)
    )
    collator = Collator(prompts, [*answers.values()])
    lengths = [collator([{"row": i}])["attention_mask"].sum(-1) for i in range(len(answers))]
    tokens = {key: int(both.sum()) for key, both in zip(answers, lengths, strict=True)}
    longest = max(int(both.max()) for both in lengths)
    shortest = answers[min(tokens, key=tokens.__getitem__)]
    try_forward(architecture, prompts.chat, [build_request(shortest.prompt, shortest.context)])
    lora = lora_config(optim)
    groups, n_adapted = optimiser_of(get_peft_model(model, lora) if lora else model, optim)
    mean_tokens = sum(tokens.values()) / len(tokens)
    return DryRun(
        model=name,
        parameters=parameters,
        adapters=n_adapted,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(
            *_pair_problems(config.pairs, problems),
            *not_here(config.policy),
            *unfit_tokens(architecture, longest, "max_pixels"),
        ),
        # The base of the adapters is frozen, or else the reference.
        **held(launcher, groups, parameters),
        **time_report(launcher, optim, len(pairs), pairs=1, tokens=mean_tokens),
    )


def _read_pairs(path: Path, tasks: Sequence[Task]) -> tuple[list[PreferencePair], list[str]]:
    """Pairs of a file that can be learned, and the reasons for those that cannot."""
    problems: list[str] = []
    pairs = trainable_pairs(path, tasks, problems.append)[0] if path.is_file() else []
    return pairs, problems


def _pair_problems(path: Path, problems: Sequence[str]) -> list[str]:
    if not path.is_file():
        return [f"pairs: there is no {path}"]
    if not problems:
        return []
    return [f"pairs: {len(problems)} cannot be learned, the first: {problems[0]}"]


def _trainable_answers(
    pairs: Sequence[PreferencePair], prompts: ProcessedPrompts, problems: list[str]
) -> dict[str, AnswerPair]:
    answers, _ = trainable_answers(pairs, prompts, Counter(), problems.append)
    if not answers:
        raise DataError(f"none of the first {len(pairs)} pairs can be learned: {problems[-1]}")
    return {f"pair {i}": pair for i, pair in enumerate(answers)}


def _placeholder_answers(n_pixels: int) -> dict[str, AnswerPair]:
    """One question about a grey image and one about a grey video, of so many pixels a frame."""
    side = max(1, math.isqrt(n_pixels))
    frame = np.full((side, side, 3), 127, dtype=np.uint8)
    video = np.broadcast_to(frame, (_PLACEHOLDER_FRAMES, *frame.shape))
    media: dict[Task, Image | Video] = {
        Task.IMAGE_UNDERSTANDING: Image(frame, "HWC"),
        Task.VIDEO_UNDERSTANDING: Video(video, "THWC", 8),
    }
    prompt = "What can be seen, and where in the frame? Describe colour, shape and position."
    chosen = "A grey square fills the whole frame, from the left edge to the right."
    rejected = "A small red circle at the top left, and nothing else."
    return {
        task.value: AnswerPair(prompt, (medium,), chosen, rejected)
        for task, medium in media.items()
    }


def _dry_run_diffusion(config: PolicyDPO, options: DiffusionDPO, launcher: LaunchConfig) -> DryRun:
    if launcher.sharding != "none":
        raise ConfigError(
            f"{launcher.name} shards weights, but a pipeline is aligned whole in every process; "
            f"leave it out: accelerate launch --num_processes {launcher.processes}"
        )
    pipeline = build_meta_pipeline(config.policy)
    sampling = sampling_options(checkpoint_path(config.policy), Denoising)
    maker = DiffusionPolicy(pipeline, sampling, name=config.policy, batch_size=1)
    denoiser = build_denoiser(pipeline, sampling.prompt_tokens)
    network, optim = denoiser.network, options.optim
    parameters = network.num_parameters()
    parts: Any = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    frozen = sum(part.num_parameters() for part in parts)
    pairs, problems = _read_pairs(config.pairs, maker.tasks)
    first = first_readable(pairs, options.resolution)
    wanted = resolve_resolution(options.resolution, first, denoiser.size_multiple)
    resolution = _sampled_resolution(wanted, sampling, denoiser)
    timesteps = _nearest_timesteps(denoiser.schedule, options.timesteps)
    model = DPOModel(denoiser, options)
    latent = _try_loss(model, resolution)
    tokens = _n_tokens(latent, network.config.get("patch_size"))
    decay = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    return DryRun(
        model=type(network).__name__,
        parameters=parameters,
        adapters=adapted(network),
        wrapped={},
        tokens={"sample": tokens} if tokens else {},
        latent=latent,
        timesteps=timesteps,
        lacking=(
            *_pair_problems(config.pairs, problems),
            *not_here(config.policy),
            *_resolution_problems(wanted, resolution, denoiser.temporal_stride),
        ),
        # The other parts are frozen, and the base of the adapters or else the reference.
        **held(launcher, [{"params": [*model.trained.values()], **decay}], frozen),
        **time_report(launcher, optim, len(pairs), pairs=1, tokens=2 * tokens),
    )


def _sampled_resolution(given: Resolution, sampling: Denoising, denoiser: Denoiser) -> Resolution:
    """Fill in what is missing with the size at which the policy samples."""
    arguments = inspect.signature(denoiser.pipeline.__call__).parameters
    side = (denoiser.network.config.get("sample_size") or 0) * denoiser.vae_scale_factor
    default_frames = arguments["num_frames"].default if denoiser.temporal_stride else None
    return Resolution(
        given.height or sampling.height or arguments["height"].default or side,
        given.width or sampling.width or arguments["width"].default or side,
        given.frames or sampling.frames or default_frames,
    )


def _resolution_problems(
    wanted: Resolution, tried: Resolution, temporal_stride: int | None
) -> list[str]:
    problems: list[str] = []
    if tried != wanted:
        size = " x ".join(str(n) for n in (tried.frames, tried.height, tried.width) if n)
        problems.append(
            f"resolution: training takes that of the first pair; tried is the policy's own, {size}"
        )
    frames = tried.frames or 1
    if n := padding_frames(frames, temporal_stride):
        problems.append(
            f"resolution.frames: {frames} frames are padded to {frames + n} with the last one; "
            f"this pipeline takes k * {temporal_stride} + 1 frames"
        )
    return problems


def _nearest_timesteps(schedule: Schedule, wanted: Sequence[float]) -> tuple[float, ...]:
    nearest = [float(schedule.timestep[schedule.nearest_steps([step])]) for step in wanted]
    if len({*nearest}) < len(nearest):
        rounded = ", ".join(f"{a:g} is {b:g}" for a, b in zip(wanted, nearest, strict=True))
        raise ConfigError(f"timesteps: several are the same one of the schedule: {rounded}")
    return tuple(nearest)


def _try_loss(model: DPOModel, resolution: Resolution) -> tuple[int, ...]:
    """Compute the loss of a pair on the meta device; returns the shape of the latents."""
    denoiser = model.denoiser
    n = resolution.frames or 1
    frames = [n + padding_frames(n, denoiser.temporal_stride)] if denoiser.temporal_stride else []
    size = (*frames, resolution.height or 0, resolution.width or 0)
    pixels = torch.empty(1, 3, *size, device="meta")
    try:
        with torch.no_grad():
            latents = denoiser.encode_pixels(pixels)
            sample = NoiseSample(torch.tensor([0]), torch.empty_like(latents))
            model.loss(latents, latents, _empty_condition(denoiser), sample)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"latents or prompts do not fit the network: {error}") from error
    return tuple(latents.shape[1:])


def _empty_condition(denoiser: Denoiser) -> dict[str, Tensor]:
    """Prompt embeddings without data, in the sizes of the network's configuration."""
    config = denoiser.network.config
    widths = ("cross_attention_dim", "joint_attention_dim", "text_dim")
    width = next(config[name] for name in widths if config.get(name))
    shapes: dict[str, tuple[int, ...]] = {
        "encoder_hidden_states": (denoiser.prompt_tokens or 77, width)
    }
    if config.get("pooled_projection_dim"):
        shapes["pooled_projections"] = (config["pooled_projection_dim"],)
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * config["addition_time_embed_dim"]
        shapes["text_embeds"] = (config["projection_class_embeddings_input_dim"] - sizes,)
    return {name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()}


def _n_tokens(latent: Sequence[int], patch: int | Sequence[int] | None) -> int:
    """Tokens of a sample; 0 where the network is no transformer."""
    if patch is None:
        return 0
    sides = [patch] * (len(latent) - 1) if isinstance(patch, int) else patch
    return math.prod(n // side for n, side in zip(latent[1:], sides, strict=True))
