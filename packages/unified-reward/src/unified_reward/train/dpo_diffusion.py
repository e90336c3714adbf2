"""Diffusion-DPO of a diffusers pipeline, on preference pairs of pictures or clips.

Prompts and media are encoded once and kept beside the run. What a step draws (pairs, timesteps,
noise) depends on the seed and on its number alone, so that a run that was killed goes on as if it
had not been, and the number of processes does not matter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from numpy.typing import NDArray
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from unified_reward import media, policies
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.samples import Image, PreferencePair, Video
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.denoisers import Denoiser, build_denoiser
from unified_reward.train.latents import EncodedPairs, Resolution, encode_pairs
from unified_reward.train.losses import (
    add_noise,
    denoising_error,
    denoising_target,
    diffusion_dpo,
    epsilon_error_weight,
)
from unified_reward.train.optim import OptimConfig, check_lora_targets, lora_config, loss_progress


_LOGGED = ("loss", "accuracy", "margin", "chosen", "rejected")


@dataclass(frozen=True)
class DiffusionDPO:
    """How a pipeline is aligned."""

    optim: OptimConfig
    beta: float = 2500.0
    """Multiplies the difference of mean squared errors, > 0; larger stays closer to the reference.
    2500 is the published 5000, which is halved where it is used."""
    sft: float = 0.0
    """Weight of the plain loss of the chosen samples, >= 0."""
    weighting: Literal["constant", "noise"] = "constant"
    """Of timesteps: none, or what makes errors those of the noise, whatever is predicted."""
    timesteps: tuple[float, ...] = ()
    """The only ones that are trained, such as the four of SDXL-Turbo; empty for all."""
    resolution: Resolution = field(default_factory=Resolution)
    precision: Literal["no", "bf16"] | None = None
    """Of the passes; None for bf16 on a card and none elsewhere."""
    samples_every: int = 0
    """Steps between sheets of samples of four prompts, in ``samples``; 0 for none."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.sft < 0:
            raise ConfigError(f"beta is above 0 and sft 0 or more, not {self.beta} and {self.sft}")
        if self.optim.muon_lr:
            raise ConfigError("a denoiser is moved by AdamW alone; leave muon_lr at 0")


class NoiseSample(NamedTuple):
    """What B pairs are learned at."""

    steps: Tensor
    """Of their timesteps in the schedule, shape (B,)."""
    noise: Tensor
    """The same for chosen and rejected, shape (B, ...)."""


class NoiseSampler:
    """Pairs, timesteps and noise by the number of the draw, from 0 on."""

    def __init__(self, n: int, allowed: Tensor, seed: int) -> None:
        self._n, self._allowed, self._seed = n, allowed, seed

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Places of pairs; every pair comes once before any comes again."""
        return [int(self._order(number // self._n)[number % self._n]) for number in numbers]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self._n)

    def __call__(self, numbers: Sequence[int], shape: Sequence[int]) -> NoiseSample:
        """Timesteps and noise for latents of this shape."""
        places: list[int] = []
        noise: list[Tensor] = []
        for number in numbers:
            # Mixed, because torch heeds the lowest 32 bits of a seed alone.
            seed = np.random.SeedSequence([self._seed, number]).generate_state(1)
            drawing = torch.Generator().manual_seed(int(seed[0]))
            at = torch.randint(len(self._allowed), (), generator=drawing)
            places.append(int(self._allowed[at]))
            noise.append(torch.randn(*shape, generator=drawing))
        return NoiseSample(torch.tensor(places), torch.stack(noise))


class DPOModel:
    """The network that is trained, its reference, and the loss between them."""

    def __init__(self, denoiser: Denoiser, config: DiffusionDPO) -> None:
        self.denoiser = denoiser
        self.config = config
        self.network: Any = denoiser.network
        network = self.network
        denoiser.freeze()
        lora = lora_config(config.optim)
        self.reference: nn.Module | None = None
        if lora is None:
            self.reference = copy.deepcopy(network).eval()
            network.requires_grad_(requires_grad=True)
        else:
            check_lora_targets(network, config.optim)
            torch.manual_seed(config.optim.seed)
            network.add_adapter(lora)
        if config.optim.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        self.trained = {n: p for n, p in network.named_parameters() if p.requires_grad}

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The denoiser predicts as it did before training, and remembers nothing."""
        trained = self.denoiser.network
        self.denoiser.network = self.reference or self.network
        if self.reference is None:
            self.network.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self.denoiser.network = trained
            if self.reference is None:
                self.network.enable_adapters()

    def loss(
        self, chosen: Tensor, rejected: Tensor, condition: Mapping[str, Tensor], drawn: NoiseSample
    ) -> dict[str, Tensor]:
        """Loss of B pairs and what tells how they stand, each a scalar.

        ``accuracy`` is the share of pairs that the model prefers rightly more than the reference
        does, ``margin`` the mean of what the log-sigmoid is taken of, ``chosen`` and ``rejected``
        by how much the error of these is above the reference's.
        """
        plan = self.denoiser.schedule
        device = chosen.device
        alpha, sigma = (
            one[drawn.steps].float().repeat(2).to(device) for one in (plan.alpha, plan.sigma)
        )
        timestep = plan.timestep[drawn.steps].repeat(2).to(device)
        noise = torch.cat([drawn.noise, drawn.noise]).to(device)
        clean = torch.cat([chosen, rejected])
        seen = {name: torch.cat([one, one]) for name, one in condition.items()}
        noisy = add_noise(clean, noise, alpha, sigma)
        target = denoising_target(plan.prediction_type, clean, noise, alpha, sigma)
        with self.as_reference():
            ref = denoising_error(self.denoiser.predict(noisy, timestep, seen), target)
        told = denoising_error(self.denoiser.predict(noisy, timestep, seen), target)
        (won, lost), (ref_won, ref_lost) = told.chunk(2), ref.chunk(2)
        is_even = self.config.weighting == "constant"
        weight = (
            1.0 if is_even else epsilon_error_weight(plan.prediction_type, alpha[: len(chosen)])
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

    def merge(self, folder: Path) -> None:
        """Write adapters as ``load_lora_weights`` reads them, and make them part of the weights."""
        if self.reference is None:
            name = self.denoiser.network_name
            told = {
                f"{name}_lora_layers": get_peft_model_state_dict(self.network),
                f"{name}_lora_adapter_metadata": self.network.peft_config["default"].to_dict(),
            }
            self.denoiser.pipeline.save_lora_weights(folder, **told)
            self.network.fuse_lora()
            self.network.unload_lora()


def align_pipeline(
    policy: str | Path, pairs: Path, config: DiffusionDPO, out: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Align a text-to-image or text-to-video pipeline and write it.

    Under ``accelerate launch`` every process takes its share of each batch.

    Args:
        policy: Folder or hub id of the pipeline.
        pairs: A pairs file; kept rows are learned.
        config: How.
        out: Folder of the new pipeline; with adapters also ``adapter/``. ``checkpoints`` in it
            holds what is encoded, and the states from which a killed run goes on.
        log: Told why a row or pair is left out.

    Returns:
        ``rows`` by status, ``pairs`` learned from, ``losses`` and the other figures by step.

    Raises:
        ConfigError: The policy is of another kind than the pairs, or options or launcher do not
            fit.
        DataError: No pair can be used.
        ModelError: The pipeline cannot be loaded or aligned, or the loss is no number any more.
    """
    on_card = torch.cuda.is_available()
    # Whoever trained before in this process may have chosen another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.precision or ("bf16" if on_card else "no"), cpu=not on_card
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError("a pipeline is whole in every process; launch without FSDP and ZeRO")
    maker = policies.load(policy, device=str(accelerator.device), dtype="float32")
    if not isinstance(maker, DiffusionPolicy):
        raise ConfigError(f"{policy} is a vision-language model, no pipeline of diffusers")
    log = log if accelerator.is_main_process else _mute
    read, rows = trainable_pairs(pairs, maker.tasks, log)
    denoiser = build_denoiser(maker.pipeline, maker.options.prompt_tokens)
    with accelerator.main_process_first():
        folder = out / "checkpoints" / "encoded"
        encoded = encode_pairs(read, denoiser, folder, config.resolution, log)
    alignment = DPOModel(denoiser, config)
    history = _train(alignment, encoded, accelerator, _Sheet(maker, read[:4], out / "samples"))
    if accelerator.is_main_process:
        alignment.merge(out / "adapter")
        maker.pipeline.save_pretrained(out, safe_serialization=True)
        policies.write_defaults(maker.options, out)
    accelerator.wait_for_everyone()
    told = {name: [round(one, 6) for one in history[name]] for name in _LOGGED[1:]}
    losses = [*enumerate(history["loss"], 1)]
    return {"rows": dict(rows), "pairs": len(encoded), "losses": losses, **told}


def _mute(_: str) -> None: ...


class _Sheet:
    """Samples of a few prompts, always of the same seeds."""

    def __init__(
        self, maker: DiffusionPolicy, pairs: Sequence[PreferencePair], folder: Path
    ) -> None:
        self._maker, self.folder = maker, folder
        self._prompts = [one.prompt for one in pairs]

    def write(self, step: int) -> None:
        """A picture with a row for each prompt; of clips, first and last frames."""
        rows: list[Tensor] = []
        for prompt in self._prompts:
            made = self._maker.sample(prompt, [], policies.seeds(prompt, 4, 0))
            shown = [_ends(one) for one in made if one is not None]
            rows += [torch.cat(shown, 1)] if shown else []
        if not rows:  # all are withheld
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet = torch.nn.utils.rnn.pad_sequence(
            [one.movedim(1, 0) for one in rows], batch_first=True
        )
        pixels = sheet.movedim(1, 2).flatten(0, 1).numpy()
        png = media.encode_png(media.open_image(Image(pixels, "HWC")))
        (self.folder / f"step-{step:06}.png").write_bytes(png)


def _ends(made: Image | Video) -> Tensor:
    pixels = torch.from_numpy(made.source)
    return pixels if pixels.ndim == 3 else torch.cat([pixels[0], pixels[-1]], 1)


def _train(
    alignment: DPOModel, pairs: EncodedPairs, accelerator: Accelerator, sheet: _Sheet
) -> dict[str, list[float]]:
    config, optim = alignment.config, alignment.config.optim
    trained = [*alignment.trained.values()]
    optimiser: Any = torch.optim.AdamW(trained, optim.lr, weight_decay=optim.weight_decay)
    warmup = round(optim.steps * optim.warmup)
    rates = get_scheduler(
        "cosine", optimiser, num_warmup_steps=warmup, num_training_steps=optim.steps
    )
    denoiser = alignment.denoiser
    denoiser.network, optimiser = accelerator.prepare(alignment.network, optimiser)
    plan = denoiser.schedule
    allowed = (
        plan.nearest_steps(config.timesteps) if config.timesteps else torch.arange(len(plan.alpha))
    )
    draws = NoiseSampler(len(pairs), allowed, optim.seed)
    state = _State(sheet.folder.parent / "checkpoints", alignment.trained, optimiser, rates)
    history = state.read(accelerator.device)
    bar = loss_progress()
    with bar if accelerator.is_main_process else nullcontext():
        task = bar.add_task("aligning", total=optim.steps, loss="")
        for step in range(len(history["loss"]), optim.steps):
            told = _step(alignment, pairs, accelerator, draws, step)
            norm = accelerator.clip_grad_norm_(trained, 1.0)
            if not all(map(math.isfinite, (float(norm or 0.0), *told.values()))):
                raise ModelError(state.told_not_finite(step + 1))
            optimiser.step()
            rates.step()
            optimiser.zero_grad()
            for name, value in told.items():
                history[name].append(value)
            bar.update(task, completed=step + 1, loss=f"loss {told['loss']:.3f}")
            if accelerator.is_main_process:
                if optim.save_every and (step + 1) % optim.save_every == 0:
                    state.write(history)
                if config.samples_every and (step + 1) % config.samples_every == 0:
                    sheet.write(step + 1)
    denoiser.network = alignment.network
    return history


def _step(
    alignment: DPOModel,
    pairs: EncodedPairs,
    accelerator: Accelerator,
    draws: NoiseSampler,
    step: int,
) -> dict[str, float]:
    """Gradients of a step, and its figures over all processes."""
    optim = alignment.config.optim
    batch, network = optim.batch_size, alignment.denoiser.network
    sums: dict[str, float] = dict.fromkeys(_LOGGED, 0.0)
    for part in range(optim.accumulate):
        nth = (step * optim.accumulate + part) * accelerator.num_processes
        first = (nth + accelerator.process_index) * batch
        numbers = range(first, first + batch)
        chosen, rejected, condition = pairs.batch(draws.rows(numbers), accelerator.device)
        drawn = draws(numbers, chosen.shape[1:])
        is_last = part == optim.accumulate - 1
        with nullcontext() if is_last else accelerator.no_sync(network), accelerator.autocast():
            told = alignment.loss(chosen, rejected, condition, drawn)
            accelerator.backward(told["loss"] / optim.accumulate)
        means = accelerator.reduce(torch.stack([told[name].detach() for name in _LOGGED]), "mean")
        for name, value in zip(_LOGGED, cast("Tensor", means).tolist(), strict=True):
            sums[name] += value / optim.accumulate
    return sums


class _State:
    """What a killed run goes on from, in one file that is whole or not there."""

    def __init__(
        self, folder: Path, trained: Mapping[str, Tensor], optimiser: Any, rates: Any
    ) -> None:
        self._folder = folder
        self._trained, self._optimiser, self._rates = trained, optimiser, rates

    def write(self, history: Mapping[str, Sequence[float]]) -> None:
        """Keep this step's state alone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"state-{len(history['loss']):06}.pt"
        part = path.with_suffix(".part")
        weights = {name: one.detach() for name, one in self._trained.items()}
        moved = {"optimiser": self._optimiser.state_dict(), "rates": self._rates.state_dict()}
        torch.save({"weights": weights, "history": dict(history), **moved}, part)
        part.replace(path)
        for older in self._folder.glob("state-*.pt"):
            if older != path:
                older.unlink()

    def read(self, device: torch.device) -> dict[str, list[float]]:
        """Take up the newest state, if there is one; what was logged up to there."""
        if (path := self._newest()) is None:
            return {name: [] for name in _LOGGED}
        told = torch.load(path, map_location=device, weights_only=True)
        with torch.no_grad():
            for name, one in self._trained.items():
                one.copy_(told["weights"][name])
        self._optimiser.load_state_dict(told["optimiser"])
        self._rates.load_state_dict(told["rates"])
        return told["history"]

    def _newest(self) -> Path | None:
        return max(self._folder.glob("state-*.pt"), default=None)

    def told_not_finite(self, step: int) -> str:
        """Where a run broke off, and what is left of it."""
        newest = self._newest()
        left = f"the last good state is {newest}" if newest else "no state was saved (save_every)"
        return f"loss or gradient of step {step} is no number; {left}; go on with a lower rate"
