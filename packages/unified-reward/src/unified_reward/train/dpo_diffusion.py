"""Diffusion-DPO of a diffusers pipeline, on preference pairs of images or videos.

Prompts and media are encoded once and kept beside the run. The pairs, timesteps and noise of a step
depend on the seed and the step's number only, so that a killed run continues exactly, and the
number of processes makes no difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from unified_reward import policies
from unified_reward.core.errors import ConfigError
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.adapters import Adapters, add_adapters, merge_adapters
from unified_reward.train.denoisers import Condition, Denoiser
from unified_reward.train.latents import EncodedPairs, Resolution, encode_pairs
from unified_reward.train.loops import NoiseSample, NoiseSampler, TrainState, build_accelerator
from unified_reward.train.losses import (
    add_noise,
    denoising_error,
    denoising_target,
    diffusion_dpo,
    epsilon_error_weight,
)
from unified_reward.train.optim import OptimConfig, lora_config, loss_progress, non_finite_error
from unified_reward.train.precision import (
    Dtype,
    MixedPrecision,
    check_dtype,
    frozen_dtype,
    mixed_precision,
)
from unified_reward.train.sample_sheets import SampleSheet


_LOGGED = ("loss", "accuracy", "margin", "chosen", "rejected")


@dataclass(frozen=True)
class DiffusionDPO:
    """Settings of the DPO of a pipeline."""

    optim: OptimConfig
    beta: float = 2500.0
    """Multiplies the difference of mean squared errors, > 0; larger stays closer to the reference.
    2500 is the published 5000, which is halved where it is used."""
    sft: float = 0.0
    """Weight of the plain denoising loss of the chosen samples, >= 0."""
    weighting: Literal["constant", "noise"] = "constant"
    """Weighting of timesteps: none, or the one that turns any error into that of the noise."""
    timesteps: tuple[float, ...] = ()
    """Timesteps that are trained, such as the four of SDXL-Turbo; empty for all."""
    resolution: Resolution = field(default_factory=Resolution)
    """Size that images and videos are scaled and cropped to."""
    precision: MixedPrecision | None = None
    """Mixed precision; None for bf16 on a GPU or with ``dtype`` bfloat16, else full precision."""
    dtype: Dtype | None = None
    """Type of frozen weights: text encoders, the network under adapters, and the autoencoder unless
    its config says ``force_upcast``. None for bfloat16 on a GPU, and float32 elsewhere, without
    adapters, or without mixed precision. Adapters are trained in float32."""
    samples_every: int = 0
    """Steps between sheets of samples of four prompts, written to ``samples``; 0 for none."""

    def __post_init__(self) -> None:
        if not (0 < self.beta < math.inf and 0 <= self.sft < math.inf):
            raise ConfigError(
                f"beta must be above 0 and sft 0 or more, not {self.beta} and {self.sft}"
            )
        if not all(map(math.isfinite, self.timesteps)):
            raise ConfigError(f"timesteps must be finite numbers, not {self.timesteps}")
        check_dtype(self.dtype, self.precision, self.optim.lora_rank)
        if self.optim.muon_lr:
            raise ConfigError("a denoiser is trained by AdamW only; leave muon_lr at 0")


class DPOModel:
    """The trained network of a pipeline, its frozen reference, and the DPO loss."""

    def __init__(self, denoiser: Denoiser, config: DiffusionDPO) -> None:
        self.denoiser = denoiser
        self.config = config
        self.networks = denoiser.networks
        denoiser.freeze()
        lora = lora_config(config.optim)
        self.reference: nn.Module | None = None
        if lora is None:
            self.reference = copy.deepcopy(self.networks).eval()
            self.networks.requires_grad_(requires_grad=True)
        self.adapters: dict[str, Adapters] = {}
        for name, network in self._parts():
            if lora:
                self.adapters[name] = add_adapters(network, lora, config.optim)
            if config.optim.gradient_checkpointing:
                network.enable_gradient_checkpointing()
        self.trained = {n: p for n, p in self.networks.named_parameters() if p.requires_grad}

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield from self.networks.items()

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Let the denoiser predict as it did before training, without gradients."""
        trained = self.denoiser.network
        self.denoiser.network = self.reference or self.networks
        for adapters in self.adapters.values():
            adapters.enable(on=False)
        try:
            with torch.no_grad():
                yield
        finally:
            self.denoiser.network = trained
            for adapters in self.adapters.values():
                adapters.enable(on=True)

    def loss(
        self,
        chosen: Tensor,
        rejected: Tensor,
        condition: Condition,
        sample: NoiseSample,
    ) -> dict[str, Tensor]:
        """Compute the loss of B pairs and figures about them, each a scalar.

        Returns:
            ``loss``; ``accuracy``, the share of pairs that the model prefers rightly more than the
            reference does; ``margin``, the mean argument of the log-sigmoid; ``chosen`` and
            ``rejected``, the mean difference of the error to the reference's.
        """
        schedule = self.denoiser.schedule
        device = chosen.device
        alpha, sigma = (
            level[sample.steps].float().repeat(2).to(device)
            for level in (schedule.alpha, schedule.sigma)
        )
        timestep = schedule.timestep[sample.steps].repeat(2).to(device)
        noise = torch.cat([sample.noise, sample.noise]).to(device)
        clean = torch.cat([chosen, rejected])
        both = {name: _twice(value) for name, value in condition.items()}
        noisy = add_noise(clean, noise, alpha, sigma)
        target = denoising_target(schedule.prediction_type, clean, noise, alpha, sigma)
        with self.as_reference():
            ref = denoising_error(self.denoiser.predict(noisy, timestep, both), target)
        error = denoising_error(self.denoiser.predict(noisy, timestep, both), target)
        (won, lost), (ref_won, ref_lost) = error.chunk(2), ref.chunk(2)
        is_even = self.config.weighting == "constant"
        weight = (
            1.0 if is_even else epsilon_error_weight(schedule.prediction_type, alpha[: len(chosen)])
        )
        terms = diffusion_dpo(
            won,
            lost,
            ref_won,
            ref_lost,
            beta=self.config.beta,
            weight=weight,
            sft=self.config.sft,
        )
        margin = terms.margin.detach()
        return {
            "loss": terms.loss,
            "accuracy": (margin > 0).float().mean(),
            "margin": margin.mean(),
            "chosen": (won - ref_won).detach().mean(),
            "rejected": (lost - ref_lost).detach().mean(),
        }

    def merge_adapters(self, folder: Path) -> None:
        """Write the adapters, those of a second network in a folder of its own, and merge them."""
        merge_adapters(self.adapters, folder, self.denoiser.pipeline)


def _twice(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return value * 2 if isinstance(value, list) else torch.cat([value, value])


def align_pipeline(
    policy: str | Path, pairs: Path, config: DiffusionDPO, out: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Align a text-to-image, text-to-video or editing pipeline and write it.

    Under ``accelerate launch`` every process takes its share of each batch.

    Args:
        policy: Folder or hub id of the pipeline.
        pairs: A pairs file; kept rows are learned.
        config: Settings.
        out: Folder of the new pipeline; with adapters also ``adapter/``. ``checkpoints`` in it
            holds the encoded pairs, and the states from which a killed run resumes.
        log: Called with the reason for each row or pair that is left out.

    Returns:
        ``rows`` by status, ``pairs`` learned from, ``dtype`` of frozen weights, ``losses`` and the
        other figures by step.

    Raises:
        ConfigError: The policy is of another kind than the pairs, or options or launcher do not
            fit.
        DataError: No pair can be used.
        ModelError: The pipeline cannot be loaded or aligned, or loss or gradient is not finite.
    """
    accelerator = build_accelerator(mixed_precision(config.dtype, config.precision))
    device, rank = accelerator.device, config.optim.lora_rank
    dtype = frozen_dtype(config.dtype, config.precision, rank, on_gpu=device.type != "cpu")
    maker = policies.load(policy, device=str(device), dtype=dtype, vae_dtype="float32")
    if not isinstance(maker, DiffusionPolicy):
        raise ConfigError(f"{policy} is a vision-language model, not a diffusers pipeline")
    log = log if accelerator.is_main_process else _mute
    denoiser = Denoiser(maker)
    read, rows = trainable_pairs(pairs, maker.tasks, log)
    with accelerator.main_process_first():
        is_half = dtype == "bfloat16"
        folder = out / "checkpoints" / ("encoded_bfloat16" if is_half else "encoded")
        encoded = encode_pairs(read, denoiser, folder, config.resolution, log)
    model = DPOModel(denoiser, config)
    # Some weights, as those of a last block for text or of a second network, reach no prediction.
    cast("Any", accelerator).ddp_handler = DistributedDataParallelKwargs(
        find_unused_parameters=True
    )
    learned = [pair for pair in read if pair.id in encoded.names]
    sheet = SampleSheet(maker, learned[:4], out / "samples")
    history = _train(model, encoded, accelerator, sheet)
    if accelerator.is_main_process:
        model.merge_adapters(out / "adapter")
        maker.pipeline.save_pretrained(out, safe_serialization=True)
        policies.write_defaults(maker.options, out)
    accelerator.wait_for_everyone()
    figures = {name: [round(value, 6) for value in history[name]] for name in _LOGGED[1:]}
    losses = [*enumerate(history["loss"], 1)]
    counts = {"rows": dict(rows), "pairs": len(encoded)}
    return {**counts, "dtype": dtype, "losses": losses, **figures}


def _mute(_: str) -> None: ...


def _train(
    model: DPOModel, pairs: EncodedPairs, accelerator: Accelerator, sheet: SampleSheet
) -> dict[str, list[float]]:
    """Train up to the last step; the figures in ``_LOGGED`` by step."""
    config, optim = model.config, model.config.optim
    trained = [*model.trained.values()]
    optimiser: Any = torch.optim.AdamW(trained, optim.lr, weight_decay=optim.weight_decay)
    scheduler = get_scheduler(
        "cosine",
        optimiser,
        num_warmup_steps=round(optim.steps * optim.warmup),
        num_training_steps=optim.steps,
    )
    denoiser = model.denoiser
    denoiser.network, optimiser = accelerator.prepare(model.networks, optimiser)
    folder = sheet.folder.parent / "checkpoints"
    state = TrainState(folder, model.trained, optimiser, scheduler, _LOGGED)
    history = state.load(accelerator.device)
    sampler = NoiseSampler(len(pairs), _trained_steps(model), optim.seed)
    bar = loss_progress()
    with bar if accelerator.is_main_process else nullcontext():
        task = bar.add_task("aligning", total=optim.steps, loss="")
        for step in range(len(history["loss"]), optim.steps):
            figures = _backward(model, pairs, accelerator, sampler, step)
            norm = accelerator.clip_grad_norm_(trained, 1.0)
            if not all(map(math.isfinite, (float(norm or 0.0), *figures.values()))):
                raise non_finite_error("loss or gradient", step + 1, state.newest())
            optimiser.step()
            scheduler.step()
            optimiser.zero_grad()
            for name, value in figures.items():
                history[name].append(value)
            bar.update(task, completed=step + 1, loss=f"loss {figures['loss']:.3f}")
            if accelerator.is_main_process:
                if optim.save_every and (step + 1) % optim.save_every == 0:
                    state.save(history)
                if config.samples_every and (step + 1) % config.samples_every == 0:
                    sheet.write(step + 1)
    denoiser.network = model.networks
    return history


def _trained_steps(model: DPOModel) -> Tensor:
    """Indices of the timesteps that are trained, in the schedule."""
    schedule, timesteps = model.denoiser.schedule, model.config.timesteps
    return schedule.nearest_steps(timesteps) if timesteps else torch.arange(len(schedule.alpha))


def _backward(
    model: DPOModel, pairs: EncodedPairs, accelerator: Accelerator, sampler: NoiseSampler, step: int
) -> dict[str, float]:
    """Compute the gradients of an optimiser step, and its figures over all processes."""
    optim = model.config.optim
    batch, network = optim.batch_size, model.denoiser.network
    sums: dict[str, float] = dict.fromkeys(_LOGGED, 0.0)
    for part in range(optim.accumulate):
        nth = (step * optim.accumulate + part) * accelerator.num_processes
        first = (nth + accelerator.process_index) * batch
        numbers = range(first, first + batch)
        chosen, rejected, condition = pairs.batch(sampler.pair_indices(numbers), accelerator.device)
        sample = sampler.sample(numbers, chosen.shape[1:])
        is_last = part == optim.accumulate - 1
        with nullcontext() if is_last else accelerator.no_sync(network), accelerator.autocast():
            terms = model.loss(chosen, rejected, condition, sample)
            accelerator.backward(terms["loss"] / optim.accumulate)
        means = accelerator.reduce(torch.stack([terms[name].detach() for name in _LOGGED]), "mean")
        for name, value in zip(_LOGGED, cast("Tensor", means).tolist(), strict=True):
            sums[name] += value / optim.accumulate
    return sums
