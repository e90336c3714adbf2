"""Dry run of a policy's DPO: everything except the weights, like `dry_run` of a judge.

Pairs, collator, adapters and loss are the real ones; networks have shapes and no memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model
from PIL import Image as PILImage
from torch import nn

from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError, DataError, ModelError, one_line
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies import Denoising, Size, sampling_options
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.layouts import at
from unified_reward.policies.observation import networks
from unified_reward.policies.packing import unpack
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.denoisers import Condition, Denoiser
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
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
from unified_reward.train.latents import (
    Resolution,
    first_readable,
    padding_frames,
    resolve_resolution,
    sample_size,
)
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.loops import NoiseSample
from unified_reward.train.meta_models import (
    build_meta_model,
    build_meta_pipeline,
    read_architecture,
)
from unified_reward.train.meta_prompts import embedded_prompt
from unified_reward.train.optim import check_lora_targets, lora_config
from unified_reward.train.placeholders import placeholder_answers, placeholder_context
from unified_reward.train.precision import frozen_bytes, frozen_dtype
from unified_reward.train.schedule import Schedule


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
    dtype = frozen_dtype(training.dtype, None, optim.lora_rank, on_gpu=True)
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
        dtype=dtype,
        **memory_report(launcher, groups, parameters * launcher.width(dtype)),
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
            enlarged_context(task, pixels),
            right,
            wrong,
        )
        for task in VLMPolicy.tasks
    }


def enlarged_context(task: Task, pixels: int) -> tuple[Image | Video, ...]:
    """Placeholders of what a question of the task is about, enlarged to so many pixels."""
    return tuple(_enlarged(part, math.isqrt(pixels)) for part in placeholder_context(task))


def _enlarged(part: Image | Video, side: int) -> Image | Video:
    pixels: Any = part.source
    times = max(1, math.ceil(side / pixels.shape[-2]))
    return replace(part, source=pixels.repeat(times, -2).repeat(times, -3))


def _diffusion(config: PolicyDPO, training: DiffusionDPO, launcher: LaunchConfig) -> DryRun:
    refuse_sharding(launcher)
    pipeline = build_meta_pipeline(config.policy)
    sampling = sampling_options(checkpoint_path(config.policy), Denoising)
    policy = DiffusionPolicy(pipeline, sampling, name=config.policy, batch_size=1)
    denoiser = Denoiser(policy)
    optim, trained = training.optim, [*denoiser.networks.values()]
    parameters = _count(trained)
    dtype = frozen_dtype(training.dtype, training.precision, optim.lora_rank, on_gpu=True)
    frozen = frozen_bytes(pipeline, dtype)
    reasons: list[str] = []
    pairs = _pairs(config.pairs, policy.tasks, reasons)
    lacking = [*_lacking_pairs(config.pairs, reasons), *not_here(config.policy)]
    first = first_readable(pairs, training.resolution)
    resolution = resolve_resolution(training.resolution, first, policy.size_multiple)
    size = sample_size(_resolution(resolution, policy, lacking), denoiser)
    timesteps = _timesteps(denoiser.schedule, training.timesteps)
    alignment = DPOModel(denoiser, training)
    task = pairs[0].task if pairs else policy.tasks[0]
    latent, tokens = _try_loss(alignment, size, is_edit=task is Task.IMAGE_EDITING)
    decay = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    return DryRun(
        model=type(trained[0]).__name__,
        parameters=parameters,
        adapters=adapted(denoiser.networks),
        wrapped={},
        tokens={"sample": tokens} if tokens else {},
        latent=latent,
        timesteps=timesteps,
        dtype=dtype,
        lacking=tuple(lacking),
        # Frozen are the other parts, and the base of the adapters or else the reference.
        **memory_report(launcher, [{"params": [*alignment.trained.values()], **decay}], frozen),
        **time_report(launcher, optim, len(pairs), pairs=1, tokens=2 * tokens),
    )


def refuse_sharding(launcher: LaunchConfig) -> None:
    """Raise where a launcher shards weights.

    Raises:
        ConfigError: It does.
    """
    if launcher.sharding != "none":
        raise ConfigError(
            f"{launcher.name} shards weights, and a pipeline is trained with them whole in every "
            f"process; leave it out: accelerate launch --num_processes {launcher.processes}"
        )


def _count(parts: Iterable[nn.Module]) -> int:
    """Number of parameters; not of what a pipeline has loaded as another type."""
    return sum(weight.numel() for part in parts for weight in part.parameters())


def _resolution(given: Resolution, policy: DiffusionPolicy, lacking: list[str]) -> Resolution:
    """The resolution of training, from the options or the pairs, else that of sampling.

    Raises:
        ConfigError: It is not known.
    """
    resolution = own_resolution(policy, given)
    if resolution != given:
        tried = " x ".join(
            str(n) for n in (resolution.frames, resolution.height, resolution.width) if n
        )
        lacking.append(f"resolution: unknown without pairs; tried as the policy samples, {tried}")
    stride = policy.temporal_stride
    if n := padding_frames(resolution.frames or 1, stride):
        lacking.append(
            f"resolution.frames: {resolution.frames} become {(resolution.frames or 1) + n} by "
            f"repeating the last one; this pipeline takes k * {stride} + 1 frames"
        )
    return resolution


def own_resolution(policy: DiffusionPolicy, given: Resolution) -> Resolution:
    """The given resolution, and where it is not given that of the policy's own samples.

    Raises:
        ConfigError: It is not known.
    """
    own = policy.options
    resolution = Resolution(
        given.height or own.height or _default_side(policy, "height"),
        given.width or own.width or _default_side(policy, "width"),
        given.frames or own.frames or _default_frames(policy),
    )
    if not (resolution.height and resolution.width):
        raise ConfigError(
            f"resolution: unknown without pairs, and {policy.name} does not say its own; give "
            "height and width"
        )
    return resolution


def _default_side(policy: DiffusionPolicy, side: str) -> int:
    """Default height or width of a pipeline in pixels; 0 where it is not known."""
    if side in policy.takes and policy.takes[side].default:
        return policy.takes[side].default
    pipeline: Any = policy.pipeline
    config = _first_network(pipeline).config
    latent = config.get("sample_size") or config.get(f"sample_{side}")
    return (latent or getattr(pipeline, "default_sample_size", 0)) * policy.vae_scale_factor


def _default_frames(policy: DiffusionPolicy) -> int | None:
    argument = policy.takes.get("num_frames")
    default = argument and argument.default
    return default or _first_network(policy.pipeline).config.get("sample_frames")


def _first_network(pipeline: Any) -> Any:
    return next(iter(networks(pipeline).values()))


def _timesteps(schedule: Schedule, wanted: Sequence[float]) -> tuple[float, ...]:
    nearest = [float(schedule.timestep[schedule.nearest_steps([one])]) for one in wanted]
    if len({*nearest}) < len(nearest):
        reasons = ", ".join(f"{a:g} is {b:g}" for a, b in zip(wanted, nearest, strict=True))
        raise ConfigError(f"timesteps: several round to one of the schedule: {reasons}")
    return tuple(nearest)


def _try_loss(alignment: DPOModel, size: Size, *, is_edit: bool) -> tuple[tuple[int, ...], int]:
    """Shape and tokens of the latents; computes the loss of a pair, so that they fit."""
    denoiser, policy = alignment.denoiser, alignment.denoiser.policy
    source = PILImage.new("RGB", (size.width, size.height)) if is_edit else None
    frames = [size.frames] if size.frames else []
    pixels = torch.empty(1, 3, *frames, size.height, size.width, device="meta")

    def inputs(n: int) -> dict[str, Any]:
        prompts = 1 if is_edit else n
        return policy.inputs("", n, source, size) | embedded_prompt(policy, prompts)

    try:
        with torch.no_grad():
            row = denoiser.encode_inputs(inputs, size, is_edit=is_edit)
            condition = {name: value[None] for name, value in row.items()}
            latents = denoiser.encode_pixels(pixels, size)
            tried = NoiseSample(torch.tensor([0]), torch.empty_like(latents))
            alignment.loss(latents, latents, condition, tried)
    except (ModelError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(_reason(error, policy)) from error
    return tuple(latents.shape[1:]), _tokens(denoiser, latents.shape[1:], condition, size)


def _reason(error: Exception, policy: DiffusionPolicy) -> str:
    """Reason why a loss cannot be computed."""
    cause = error.__cause__ or error
    is_misfit = isinstance(cause, ValueError | RuntimeError | IndexError)
    if is_misfit and "meta" not in str(cause):
        return f"latents or prompts do not fit the network: {one_line(cause)}"
    return (
        f"{policy.name}: a {type(policy.pipeline).__name__} cannot be tried without weights and "
        f"tokenizers: {one_line(cause)}"
    )


def _tokens(denoiser: Denoiser, latent: Sequence[int], condition: Condition, size: Size) -> int:
    """Tokens of a sample, and of the source of an edit; 0 where the network is no transformer."""
    if len(latent) == 2:
        (call,) = unpack(condition)
        source = at(call.arguments[0], call.repeat.layout.noisy)
        return latent[0] + (0 if source is None else source.shape[1])
    return patch_tokens(denoiser.pipeline, latent, denoiser.decoder_shape(size)[1])


def patch_tokens(pipeline: Any, latent: Sequence[int], channels: int) -> int:
    """Tokens of latents of the given shape; 0 where the network is no transformer."""
    config = _first_network(pipeline).config
    patch = config.get("patch_size") or next(iter(config.get("all_patch_size", ())), None)
    if patch is None:
        return 0
    area = patch**2 if isinstance(patch, int) else math.prod(patch)
    return math.prod(latent) // channels // (area * (config.get("patch_size_t") or 1))
