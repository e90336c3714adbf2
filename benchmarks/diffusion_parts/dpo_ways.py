"""Two ways of Diffusion-DPO of the same pipeline: the published manner, and the library's."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.diffusion_parts import pipelines
from unified_reward import media
from unified_reward.core.samples import PreferencePair
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.denoisers import Condition, Denoiser
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
from unified_reward.train.latents import EncodedPairs, Resolution, encode_pairs
from unified_reward.train.loops import NoiseSampler
from unified_reward.train.optim import OptimConfig


WAYS = ("published", "ours")
OPTIM = OptimConfig(steps=100, batch_size=1, accumulate=1, lr=1e-5, lora_rank=8)


class Published(Denoiser):
    """Network, autoencoder and text encoders, called as published loops call them."""

    @property
    def _longest(self) -> dict[str, int]:
        """Longest prompt, which Stable Diffusion 3 pads to without its third encoder too."""
        return {"max_sequence_length": pipelines.TOKENS} if "transformer" in self.networks else {}

    def conditions(self, prompts: Sequence[str]) -> Condition:
        """Arguments of the network for B prompts, by the text encoders themselves."""
        found = self.pipeline.encode_prompt(
            *[[*prompts]] * (3 if "transformer" in self.networks else 1),
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **self._longest,
        )
        if "transformer" in self.networks:
            return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}
        return {"encoder_hidden_states": found[0]}

    def latents(self, pixels: Tensor) -> Tensor:
        """Means of the latents of B images, by the autoencoder itself."""
        vae = self.pipeline.vae
        shift = vae.config.shift_factor or 0.0
        return (vae.encode(pixels).latent_dist.mode() - shift) * vae.config.scaling_factor

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Prediction of the network."""
        (name,) = self.networks
        sample = "hidden_states" if name == "transformer" else "sample"
        return self.network(name, {sample: noisy, "timestep": timestep, **condition})


class Way:
    """One way of training a pipeline."""

    def __init__(
        self, way: str, policy: DiffusionPolicy, pairs: Sequence[PreferencePair], folder: Path
    ) -> None:
        """Encode the pairs where that is done once, and add adapters.

        Args:
            way: One of `WAYS`.
            policy: The pipeline, not shared with the other way.
            pairs: Pairs in files.
            folder: Folder of encoded pairs.
        """
        self.pairs = pairs
        kind = Published if way == "published" else Denoiser
        self.denoiser = kind(policy)
        self.denoiser.freeze()
        self.encoded: EncodedPairs | None = None
        self.encode_s, self.prepare_s = 0.0, 0.0
        """Processor seconds of encoding all pairs, and of understanding the pipeline before."""
        if way == "ours":
            self._encode(folder)
        reference = copy.deepcopy(self.denoiser.networks) if way == "published" else None
        self.model = DPOModel(self.denoiser, DiffusionDPO(OPTIM))
        self.model.reference = reference
        self._optimiser = torch.optim.AdamW([*self.model.trained.values()], lr=OPTIM.lr)
        steps = torch.arange(len(self.denoiser.schedule.alpha))
        self._sampler = NoiseSampler(len(pairs), steps, 0)

    def _encode(self, folder: Path) -> None:
        """Encode; what is found out before the first pair is timed apart."""
        prompt_call = self.denoiser._prompt_call

        def timed(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            found = prompt_call(*given, **named)
            self.prepare_s += time.process_time() - start
            return found

        vars(self.denoiser)["_prompt_call"] = timed
        start = time.process_time()
        self.encoded = encode_pairs(self.pairs, self.denoiser, folder, Resolution(), print)
        self.encode_s = time.process_time() - start - self.prepare_s

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Condition]:
        """Latents and conditions: read, or made anew from the files."""
        if self.encoded is not None:
            return self.encoded.batch(rows, torch.device("cpu"))
        assert isinstance(self.denoiser, Published)
        chosen = [self.pairs[i] for i in rows]
        images = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        with torch.no_grad():
            pixels = torch.stack([_pixels(image) for image in images])
            latents = self.denoiser.latents(pixels)
            return *latents.chunk(2), self.denoiser.conditions([pair.prompt for pair in chosen])

    def step(self, number: int) -> float:
        """Train once; the loss."""
        numbers = range(number * OPTIM.batch_size, (number + 1) * OPTIM.batch_size)
        chosen, rejected, condition = self._batch(self._sampler.pair_indices(numbers))
        sample = self._sampler.sample(numbers, chosen.shape[1:])
        loss = self.model.loss(chosen, rejected, condition, sample)["loss"]
        loss.backward()
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())


def _pixels(image: Any) -> Tensor:
    pixels = torch.from_numpy(np.array(media.open_image(image)))
    return pixels.movedim(-1, 0).float() / 127.5 - 1


def compare(kind: str, size: pipelines.Size, steps: int, folder: Path) -> dict[str, Any]:
    """Train by both ways in turn; processor seconds, and differences of the losses.

    Args:
        kind: ``unet`` or ``dit``.
        size: Size of the pipeline.
        steps: Steps of each way, the first of which is not counted in the medians.
        folder: Folder of pictures and encoded pairs.
    """
    pairs = pipelines.noise_pairs(2, size.side, folder)
    ways = {way: Way(way, pipelines.policy(kind, size), pairs, folder / "encoded") for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(steps):
        for way in WAYS[:: 1 if number % 2 else -1]:
            start = time.process_time()
            losses[way].append(ways[way].step(number))
            seconds[way].append(time.process_time() - start)
    ours = ways["ours"]
    apart = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
    return {
        "parameters": sum(w.numel() for w in ours.denoiser.network.parameters()),
        "vae_parameters": sum(w.numel() for w in ours.denoiser.pipeline.vae.parameters()),
        "step_s": seconds,
        "encode_pair_s": ours.encode_s / len(pairs),
        "prepare_s": ours.prepare_s,
        "losses": losses,
        "largest_difference_of_losses": max(apart),
    }


def peak_mib(way: str, kind: str, size: pipelines.Size, folder: Path) -> Mapping[str, float]:
    """Memory of one way above the loaded pipeline in MiB: of encoding, and of two steps."""
    pairs = pipelines.noise_pairs(2, size.side, folder)
    policy = pipelines.policy(kind, size)
    before = _reset_peak()
    trained = Way(way, policy, pairs[:1], folder / "encoded")
    encoding = _memory_mib("VmHWM") - before
    _reset_peak()
    for number in range(2 if way == "ours" else 1):
        trained.step(number)
    steps = _memory_mib("VmHWM") - before
    return {"encoding": encoding if way == "ours" else 0.0, "steps": steps}


def _memory_mib(what: str) -> float:
    """Memory of this process as Linux has it: now (VmRSS) or at most since the reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    return _memory_mib("VmRSS")
