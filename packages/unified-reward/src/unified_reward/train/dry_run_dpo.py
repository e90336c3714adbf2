"""Dry run of a policy's DPO: everything except the weights, like `dry_run` of a judge.

Pairs, collator, adapters and loss are the real ones; networks have shapes and no memory.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model
from PIL import Image as PILImage
from torch import Tensor, nn

from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError, DataError, one_line
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies import Denoising, sampling_options
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.denoisers import Denoiser, Schedule
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
    PREVIEWS,
    DryRun,
    adapted,
    memory_report,
    not_here,
    optimiser_of,
    time_report,
    try_forward,
    unfit_tokens,
)
from unified_reward.train.edit_denoisers import EditDenoiser, denoiser_of
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
from unified_reward.train.placeholders import placeholder_answers, placeholder_context


_EMBEDDING_INPUTS = {
    "encoder_hidden_states": "prompt_embeds",
    "pooled_projections": "pooled_prompt_embeds",
    "text_embeds": "pooled_prompt_embeds",
}
"""Arguments of a pipeline by those of its network."""


def dry_run_dpo(config: PolicyDPO, launch: str = "") -> DryRun:
    """Build everything of a policy's DPO except its weights.

    Args:
        config: The policy, its pairs and the options of the training.
        launch: A configuration of accelerate, see `read_launch_config`; empty for one process.

    Raises:
        ConfigError: Adapters, sizes, timesteps or launcher do not fit.
        DataError: No pair of the file can be trained on.
        ModelError: The policy's folder is of another kind, or its pipeline is not supported.
    """
    launcher = read_launch_config(launch) if launch else LaunchConfig("")
    if config.vlm:
        return _vlm(config, config.vlm, launcher)
    return _diffusion(config, cast("DiffusionDPO", config.diffusion), launcher)


def _vlm(config: PolicyDPO, training: VLMDPO, launcher: LaunchConfig) -> DryRun:
    optim = training.optim
    launcher.check_batch(launcher.processes, optim)
    architecture = read_architecture(config.policy)
    chat = Chat(architecture.processor, max_pixels=training.max_pixels)
    prompts = ProcessedPrompts(chat)
    model = build_meta_model(architecture.config)
    name, parameters = type(model).__name__, model.num_parameters()
    check_lora_targets(model, optim)
    wrapped = launcher.fsdp_layers(model)
    reasons: list[str] = []
    pairs = _pairs(config.pairs, VLMPolicy.tasks, reasons)
    answers = (
        _answers(pairs[:PREVIEWS], prompts, reasons)
        if pairs
        else _placeholders(training.max_pixels or 0)
    )
    collator = Collator(prompts, [*answers.values()])
    lengths = [collator([{"row": i}])["attention_mask"].sum(-1) for i in range(len(answers))]
    tokens = {key: int(pair.sum()) for key, pair in zip(answers, lengths, strict=True)}
    longest = max(int(pair.max()) for pair in lengths)
    shortest = answers[min(tokens, key=tokens.__getitem__)]
    try_forward(architecture, chat, [build_request(shortest.prompt, shortest.context)])
    lora = lora_config(optim)
    groups, adapter_layers = optimiser_of(get_peft_model(model, lora) if lora else model, optim)
    return DryRun(
        model=name,
        parameters=parameters,
        adapters=adapter_layers,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(
            *_lacking_pairs(config.pairs, reasons),
            *not_here(config.policy),
            *unfit_tokens(architecture, longest, "max_pixels"),
        ),
        # Frozen is the base of the adapters, or else the reference.
        **memory_report(launcher, groups, parameters),
        **time_report(
            launcher, optim, len(pairs), pairs=1, tokens=sum(tokens.values()) / len(tokens)
        ),
    )


def _pairs(path: Path, tasks: Sequence[Task], reasons: list[str]) -> list[PreferencePair]:
    return trainable_pairs(path, tasks, reasons.append)[0] if is_file(path) else []


def _lacking_pairs(path: Path, reasons: list[str]) -> list[str]:
    if not is_file(path):
        return [f"pairs: there is no {path}"]
    return [f"pairs: {len(reasons)} cannot be used, the first: {reasons[0]}"] if reasons else []


def _answers(
    pairs: Sequence[PreferencePair], prompts: ProcessedPrompts, reasons: list[str]
) -> dict[str, AnswerPair]:
    examples, _ = trainable_answers(pairs, prompts, Counter(), reasons.append)
    if not examples:
        raise DataError(f"none of the first {len(pairs)} pairs can be used: {reasons[-1]}")
    return {f"pair {i}": answers for i, answers in enumerate(examples)}


def _placeholders(pixels: int) -> dict[str, AnswerPair]:
    """A question about an image and one about a video, enlarged to so many pixels."""
    right, wrong = placeholder_answers()
    return {
        task.value: AnswerPair(
            "What colour is the lantern at the bow of the boat?",
            tuple(_enlarged(part, math.isqrt(pixels)) for part in placeholder_context(task)),
            right,
            wrong,
        )
        for task in VLMPolicy.tasks
    }


def _enlarged(part: Image | Video, side: int) -> Image | Video:
    pixels: Any = part.source
    times = max(1, math.ceil(side / pixels.shape[-2]))
    return replace(part, source=pixels.repeat(times, -2).repeat(times, -3))


def _diffusion(config: PolicyDPO, training: DiffusionDPO, launcher: LaunchConfig) -> DryRun:
    if launcher.sharding != "none":
        raise ConfigError(
            f"{launcher.name} shards weights, and DPO of a pipeline needs them whole in every "
            f"process; leave it out: accelerate launch --num_processes {launcher.processes}"
        )
    pipeline = build_meta_pipeline(config.policy)
    sampling = sampling_options(checkpoint_path(config.policy), Denoising)
    policy = DiffusionPolicy(pipeline, sampling, name=config.policy, batch_size=1)
    denoiser = denoiser_of(policy)
    network, optim = denoiser.network, training.optim
    parameters = network.num_parameters()
    parts: Any = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    frozen = sum(part.num_parameters() for part in parts)
    reasons: list[str] = []
    pairs = _pairs(config.pairs, denoiser.trained_tasks(policy.tasks), reasons)
    lacking = [*_lacking_pairs(config.pairs, reasons), *not_here(config.policy)]
    resolution = _resolution(
        resolve_resolution(
            training.resolution,
            first_readable(pairs, training.resolution),
            denoiser.size_multiple,
        ),
        sampling,
        denoiser,
        lacking,
    )
    timesteps = _timesteps(denoiser.schedule, training.timesteps)
    alignment = DPOModel(denoiser, training)
    latent, condition = _try_loss(alignment, resolution)
    tokens = _tokens(latent, condition, network.config.get("patch_size"))
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
        **memory_report(launcher, [{"params": [*alignment.trained.values()], **decay}], frozen),
        **time_report(launcher, optim, len(pairs), pairs=1, tokens=2 * tokens),
    )


def _resolution(
    given: Resolution, sampling: Denoising, denoiser: Denoiser, lacking: list[str]
) -> Resolution:
    """The resolution of training, from the options or the pairs, else that of sampling."""
    takes = inspect.signature(denoiser.pipeline.__call__).parameters
    default = getattr(denoiser.pipeline, "default_sample_size", 0)
    side = (denoiser.network.config.get("sample_size") or default) * denoiser.vae_scale_factor
    height, width = (takes[name].default if name in takes else None for name in ("height", "width"))
    resolution = Resolution(
        given.height or sampling.height or height or side,
        given.width or sampling.width or width or side,
        given.frames
        or sampling.frames
        or (takes["num_frames"].default if denoiser.temporal_stride else None),
    )
    if resolution != given:
        tried = " x ".join(
            str(n) for n in (resolution.frames, resolution.height, resolution.width) if n
        )
        lacking.append(f"resolution: unknown without pairs; tried as the policy samples, {tried}")
    if n := padding_frames(resolution.frames or 1, denoiser.temporal_stride):
        lacking.append(
            f"resolution.frames: {resolution.frames} become {(resolution.frames or 1) + n} by "
            "repeating the last one; this pipeline takes k * "
            f"{denoiser.temporal_stride} + 1 frames"
        )
    return resolution


def _timesteps(schedule: Schedule, wanted: Sequence[float]) -> tuple[float, ...]:
    nearest = [float(schedule.timestep[schedule.nearest_steps([one])]) for one in wanted]
    if len({*nearest}) < len(nearest):
        reasons = ", ".join(f"{a:g} is {b:g}" for a, b in zip(wanted, nearest, strict=True))
        raise ConfigError(f"timesteps: several round to one of the schedule: {reasons}")
    return tuple(nearest)


def _try_loss(
    alignment: DPOModel, resolution: Resolution
) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """Shape of the latents, and a condition; computes the loss of a pair, so that they fit."""
    denoiser = alignment.denoiser
    n = resolution.frames or 1
    frames = [n + padding_frames(n, denoiser.temporal_stride)] if denoiser.temporal_stride else []
    size = (resolution.height or 0, resolution.width or 0)
    pixels = torch.empty(1, 3, *frames, *size, device="meta")
    try:
        with torch.no_grad():
            latents = denoiser.encode_pixels(pixels)
            tried = NoiseSample(torch.tensor([0]), torch.empty_like(latents))
            condition = _condition(denoiser, size)
            alignment.loss(latents, latents, condition, tried)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            f"latents or prompts do not fit the network: {one_line(error)}"
        ) from error
    return tuple(latents.shape[1:]), condition


def _condition(denoiser: Denoiser, size: tuple[int, int]) -> dict[str, Tensor]:
    """Conditioning inputs of a sample, without numbers."""
    embeddings = {
        name: torch.empty(1, *shape, device="meta") for name, shape in _embeddings(denoiser).items()
    }
    if not isinstance(denoiser, EditDenoiser):
        return embeddings
    prompt = {"prompt": None}
    prompt |= {_EMBEDDING_INPUTS[name]: value for name, value in embeddings.items()}
    row = denoiser.encode_edit(prompt, PILImage.new("RGB", (size[1], size[0])), size)
    return {name: value[None] for name, value in row.items()}


def _embeddings(denoiser: Denoiser) -> dict[str, tuple[int, ...]]:
    """Shapes of a prompt's embeddings, from the network's configuration."""
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
    return shapes


def _tokens(
    latent: Sequence[int], condition: Mapping[str, Tensor], patch: int | Sequence[int] | None
) -> int:
    """Tokens of a sample, and of the source of an edit; 0 where the network is no transformer."""
    if patch is None:
        return 0
    if len(latent) == 2:
        return latent[0] + condition["hidden_states"].shape[1]
    sides = [patch] * (len(latent) - 1) if isinstance(patch, int) else patch
    return math.prod(n // side for n, side in zip(latent[1:], sides, strict=True))
