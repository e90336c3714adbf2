"""DPO of a policy without its weights, as `dry_run` is of a judge.

Pairs, collator, adapters and loss are the real ones; networks have shapes and no memory.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor, nn

from unified_reward.backends.chat import Chat
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
from unified_reward.train.latents import Resolution, padding_frames, resolve_resolution
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.meta_models import (
    build_meta_model,
    build_meta_pipeline,
    read_architecture,
)
from unified_reward.train.optim import check_lora_targets, lora_config
from unified_reward_lab.microworld import Question, policy_prompt, random_reply


def dry_run_dpo(config: PolicyDPO, launch: str = "") -> DryRun:
    """Build everything of a policy's DPO but the weights.

    Args:
        config: The policy, its pairs, and how it is aligned.
        launch: A configuration of accelerate, see `read_launch_config`; empty for one process.

    Raises:
        ConfigError: Adapters, sizes, timesteps or launcher do not fit.
        DataError: No pair of the file can be learned.
        ModelError: The policy is a folder of another kind, or cannot be aligned.
    """
    started = read_launch_config(launch) if launch else LaunchConfig("")
    if config.vlm:
        return _vlm(config, config.vlm, started)
    return _diffusion(config, cast("DiffusionDPO", config.diffusion), started)


def _vlm(config: PolicyDPO, how: VLMDPO, started: LaunchConfig) -> DryRun:
    optim = how.optim
    started.check_batch(started.processes, optim)
    skeleton = read_architecture(config.policy)
    chat = Chat(skeleton.processor, max_pixels=how.max_pixels)
    prompts = ProcessedPrompts(chat)
    model = build_meta_model(skeleton.config)
    name, parameters = type(model).__name__, model.num_parameters()
    check_lora_targets(model, optim)
    wrapped = started.wrapped(model)
    told: list[str] = []
    pairs = _pairs(config.pairs, VLMPolicy.tasks, told)
    answers = (
        _answers(pairs[:TRIED], prompts, told) if pairs else _of_microworld(how.max_pixels or 0)
    )
    collator = Collator(prompts, [*answers.values()])
    lengths = [collator([{"row": i}])["attention_mask"].sum(-1) for i in range(len(answers))]
    tokens = {key: int(two.sum()) for key, two in zip(answers, lengths, strict=True)}
    longest = max(int(two.max()) for two in lengths)
    shortest = answers[min(tokens, key=tokens.__getitem__)]
    try_forward(skeleton, chat, [build_request(shortest.prompt, shortest.context)])
    lora = lora_config(optim)
    groups, hit = optimiser_of(get_peft_model(model, lora) if lora else model, optim)
    return DryRun(
        model=name,
        parameters=parameters,
        adapters=hit,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(
            *_lacking_pairs(config.pairs, told),
            *not_here(config.policy),
            *unfit_tokens(skeleton, longest, "max_pixels"),
        ),
        # Frozen is the base of the adapters, or else the reference.
        **held(started, groups, parameters),
        **time_report(
            started, optim, len(pairs), pairs=1, tokens=sum(tokens.values()) / len(tokens)
        ),
    )


def _pairs(path: Path, tasks: Sequence[Task], told: list[str]) -> list[PreferencePair]:
    return trainable_pairs(path, tasks, told.append)[0] if path.is_file() else []


def _lacking_pairs(path: Path, told: list[str]) -> list[str]:
    if not path.is_file():
        return [f"pairs: there is no {path}"]
    return [f"pairs: {len(told)} cannot be learned, the first: {told[0]}"] if told else []


def _answers(
    pairs: Sequence[PreferencePair], prompts: ProcessedPrompts, told: list[str]
) -> dict[str, AnswerPair]:
    found, _ = trainable_answers(pairs, prompts, Counter(), told.append)
    if not found:
        raise DataError(f"none of the first {len(pairs)} pairs can be learned: {told[-1]}")
    return {f"pair {i}": one for i, one in enumerate(found)}


def _of_microworld(pixels: int) -> dict[str, AnswerPair]:
    """A question about a picture and one about a clip, enlarged to so many pixels."""
    made: dict[str, AnswerPair] = {}
    for task in VLMPolicy.tasks:
        one = policy_prompt(task, split="train", seed=0, index=0)
        question = cast("Question", one.target)
        wrong = random_reply(question, "wrong", np.random.default_rng(0), split="train").text
        context = tuple(_enlarged(part, math.isqrt(pixels)) for part in one.context)
        made[task.value] = AnswerPair(one.prompt, context, question.answer, wrong)
    return made


def _enlarged(part: Image | Video, side: int) -> Image | Video:
    pixels: Any = part.source
    times = max(1, math.ceil(side / pixels.shape[-2]))
    return replace(part, source=pixels.repeat(times, -2).repeat(times, -3))


def _diffusion(config: PolicyDPO, how: DiffusionDPO, started: LaunchConfig) -> DryRun:
    if started.sharding != "none":
        raise ConfigError(
            f"{started.name} spreads weights, and a pipeline is aligned whole in every process; "
            f"leave it out: accelerate launch --num_processes {started.processes}"
        )
    pipeline = build_meta_pipeline(config.policy)
    usual = sampling_options(checkpoint_path(config.policy), Denoising)
    maker = DiffusionPolicy(pipeline, usual, name=config.policy, batch_size=1)
    denoiser = build_denoiser(pipeline, usual.prompt_tokens)
    network, optim = denoiser.network, how.optim
    parameters = network.num_parameters()
    parts: Any = [one for one in pipeline.components.values() if isinstance(one, nn.Module)]
    frozen = sum(one.num_parameters() for one in parts)
    told: list[str] = []
    pairs = _pairs(config.pairs, maker.tasks, told)
    lacking = [*_lacking_pairs(config.pairs, told), *not_here(config.policy)]
    resolution = _extent(
        resolve_resolution(how.resolution, pairs, denoiser.size_multiple), usual, denoiser, lacking
    )
    timesteps = _timesteps(denoiser.schedule, how.timesteps)
    alignment = DPOModel(denoiser, how)
    latent = _try_loss(alignment, resolution)
    tokens = _tokens(latent, network.config.get("patch_size"))
    decay = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    return DryRun(
        model=type(network).__name__,
        parameters=parameters,
        adapters=adapted(network),
        wrapped={},
        tokens={"sample": tokens} if tokens else {},
        latent=latent,
        timesteps=timesteps,
        lacking=tuple(lacking),
        # Frozen are the other parts, and the base of the adapters or else the reference.
        **held(started, [{"params": [*alignment.trained.values()], **decay}], frozen),
        **time_report(started, optim, len(pairs), pairs=1, tokens=2 * tokens),
    )


def _extent(
    given: Resolution, usual: Denoising, denoiser: Denoiser, lacking: list[str]
) -> Resolution:
    """What is learned, or as the policy draws where it is neither given nor taken from a pair."""
    takes = inspect.signature(denoiser.pipeline.__call__).parameters
    side = (denoiser.network.config.get("sample_size") or 0) * denoiser.vae_scale_factor
    resolution = Resolution(
        given.height or usual.height or takes["height"].default or side,
        given.width or usual.width or takes["width"].default or side,
        given.frames
        or usual.frames
        or (takes["num_frames"].default if denoiser.temporal_stride else None),
    )
    if resolution != given:
        drawn = " x ".join(
            str(n) for n in (resolution.frames, resolution.height, resolution.width) if n
        )
        lacking.append(f"extent: that of the first pair is taken; tried as drawn, {drawn}")
    if n := padding_frames(resolution.frames or 1, denoiser.temporal_stride):
        lacking.append(
            f"resolution.frames: {resolution.frames} are lengthened to {(resolution.frames or 1) + n} by the "
            f"last one; this pipeline takes a multiple of {denoiser.temporal_stride} and one"
        )
    return resolution


def _timesteps(plan: Schedule, wanted: Sequence[float]) -> tuple[float, ...]:
    nearest = [float(plan.timestep[plan.nearest_steps([one])]) for one in wanted]
    if len({*nearest}) < len(nearest):
        told = ", ".join(f"{a:g} is {b:g}" for a, b in zip(wanted, nearest, strict=True))
        raise ConfigError(f"timesteps: some are the same one of the schedule: {told}")
    return tuple(nearest)


def _try_loss(alignment: DPOModel, resolution: Resolution) -> tuple[int, ...]:
    """Take the loss of a pair, so that latents and prompts fit; the shape of the latents."""
    denoiser = alignment.denoiser
    n = resolution.frames or 1
    frames = [n + padding_frames(n, denoiser.temporal_stride)] if denoiser.temporal_stride else []
    pixels = torch.empty(
        1, 3, *frames, resolution.height or 0, resolution.width or 0, device="meta"
    )
    try:
        with torch.no_grad():
            latents = denoiser.encode_pixels(pixels)
            drawn = NoiseSample(torch.tensor([0]), torch.empty_like(latents))
            alignment.loss(latents, latents, _condition(denoiser), drawn)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"latents or prompts do not fit the network: {error}") from error
    return tuple(latents.shape[1:])


def _condition(denoiser: Denoiser) -> dict[str, Tensor]:
    """What the network is told of a prompt, in the sizes of its configuration."""
    config = denoiser.network.config
    widths = ("cross_attention_dim", "joint_attention_dim", "text_dim")
    width = next(config[one] for one in widths if config.get(one))
    seen: dict[str, tuple[int, ...]] = {
        "encoder_hidden_states": (denoiser.prompt_tokens or 77, width)
    }
    if config.get("pooled_projection_dim"):
        seen["pooled_projections"] = (config["pooled_projection_dim"],)
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * config["addition_time_embed_dim"]
        seen["text_embeds"] = (config["projection_class_embeddings_input_dim"] - sizes,)
    return {name: torch.empty(1, *shape, device="meta") for name, shape in seen.items()}


def _tokens(latent: Sequence[int], patch: int | Sequence[int] | None) -> int:
    """Of a sample; 0 where the network is no transformer."""
    if patch is None:
        return 0
    sides = [patch] * (len(latent) - 1) if isinstance(patch, int) else patch
    return math.prod(n // side for n, side in zip(latent[1:], sides, strict=True))
