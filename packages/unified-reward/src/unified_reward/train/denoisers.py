"""Diffusers pipelines seen as what is trained in them: one network that denoises latents.

A denoiser turns prompts into conditions and pixels into latents, once each, and predicts. Knows no
loss. Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3 and Wan; other pipelines are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from unified_reward.core.errors import ModelError
from unified_reward.train.losses import Prediction


Condition = Mapping[str, Tensor]
"""What a network sees of prompts, each of shape (B, ...)."""


class Schedule(NamedTuple):
    """The noise of the T steps a network is trained on, from little to much."""

    prediction_type: Prediction
    alpha: Tensor
    """Shape (T,), float64."""
    sigma: Tensor
    """Shape (T,), float64."""
    timestep: Tensor
    """What the network is told of a step, shape (T,)."""

    def nearest_steps(self, timesteps: Sequence[float]) -> Tensor:
        """The steps nearest to these timesteps, ascending, without repetition."""
        wanted = torch.tensor(sorted(timesteps), dtype=torch.float64)
        return (self.timestep.double()[None] - wanted[:, None]).abs().argmin(1).unique()


def read_schedule(scheduler: Any) -> Schedule:
    """The noise that a pipeline's scheduler stands for.

    A flow whose shift depends on the size of what is drawn counts as not shifted.

    Raises:
        ModelError: It predicts something else.
    """
    config, name = scheduler.config, type(scheduler).__name__
    is_flow = "FlowMatch" in name
    kind = "flow_prediction" if is_flow else config.get("prediction_type", "epsilon")
    steps = config.num_train_timesteps
    if kind == "flow_prediction":
        fixed = not config.get("use_dynamic_shifting")
        shift = (fixed and config.get("shift", config.get("flow_shift"))) or 1.0
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        sigma = shift * even / (1 + (shift - 1) * even)
        return Schedule("flow", 1 - sigma, sigma, (sigma * steps).float())
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"{kind} cannot be aligned; epsilon, v_prediction and flows can")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(f"a {name} cannot be aligned; DDPM, DDIM, Euler and flow matching can")
    kept = scheduler.alphas_cumprod.double()
    return Schedule(cast("Prediction", kind), kept.sqrt(), (1 - kept).sqrt(), torch.arange(steps))


class Denoiser:
    """The trained network of a pipeline, and what turns prompts and pixels into its inputs."""

    network_name = "unet"
    tokenizers: tuple[str, ...] = ("tokenizer",)
    temporal_stride: int | None = None
    """Frames of a clip are one more than a multiple of it; None for pictures."""

    def __init__(self, pipeline: Any, prompt_tokens: int | None = None) -> None:
        """Tokens of a prompt: as many as the pipeline is sampled with; None for its default."""
        self.pipeline = pipeline
        self.schedule = read_schedule(pipeline.scheduler)
        self.prompt_tokens = prompt_tokens
        self.network: Any = getattr(pipeline, self.network_name)
        """What is trained, perhaps wrapped."""
        self._vae: Any = pipeline.vae
        if self.network is not None and self.network.config.get("time_cond_proj_dim"):
            raise ModelError("a network that is told its guidance cannot be aligned")

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along a side of a latent."""
        return self.pipeline.vae_scale_factor

    @property
    def size_multiple(self) -> int:
        """Pixels that the sides of pictures and clips are multiples of."""
        patch: Any = getattr(self.pipeline, self.network_name).config.get("patch_size") or 1
        return self.vae_scale_factor * (patch if isinstance(patch, int) else patch[-1])

    def freeze(self) -> None:
        """Make no part of the pipeline trainable."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(requires_grad=False).eval()

    def prompt_overflow(self, prompt: str) -> tuple[int, int] | None:
        """Tokens of a prompt that is too long, and how many are read; None for one that fits."""
        for name in self.tokenizers:
            tokenizer = getattr(self.pipeline, name, None)
            if tokenizer is not None:
                most = self._most(name) or tokenizer.model_max_length
                n = len(tokenizer(prompt).input_ids)
                if n > most:
                    return n, most
        return None

    def _most(self, tokenizer: str) -> int | None:
        """Tokens that are read of those of a tokenizer; None for its own limit."""
        return self.prompt_tokens

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the network sees of prompts, as the pipeline itself makes it."""
        embedded = self.pipeline.encode_prompt(
            prompt=[*prompts],
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            device=self._vae.device,
        )
        return {"encoder_hidden_states": embedded[0]}

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The means of latents, scaled as the network sees them.

        Args:
            pixels: In [-1, 1], shape (B, 3, H, W), or (B, 3, T, H, W) of clips.
        """
        config = self._vae.config
        latent = self._vae.encode(pixels.to(self._vae.dtype)).latent_dist.mode()
        return (latent - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """What the network says of noisy latents, of their shape."""
        return self.network(noisy, timestep, **condition, return_dict=False)[0]


class _SDXL(Denoiser):
    tokenizers = ("tokenizer", "tokenizer_2")

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        config, scaled = self._vae.config, super().encode_pixels(pixels)
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return scaled
        mean, std = (
            scaled.new_tensor(one).view(1, -1, 1, 1)
            for one in (config.latents_mean, config.latents_std)
        )
        return (scaled - mean * config.scaling_factor) / std

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        embedded, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=[*prompts], do_classifier_free_guidance=False, device=self._vae.device
        )
        return {"encoder_hidden_states": embedded, "text_embeds": pooled}

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        height, width = (side * self.vae_scale_factor for side in noisy.shape[-2:])
        sizes = noisy.new_tensor([height, width, 0, 0, height, width]).expand(len(noisy), -1)
        added = {"text_embeds": condition["text_embeds"], "time_ids": sizes}
        embedded = condition["encoder_hidden_states"]
        return self.network(noisy, timestep, embedded, added_cond_kwargs=added, return_dict=False)[
            0
        ]


class _SD3(Denoiser):
    network_name = "transformer"
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")

    def __init__(self, pipeline: Any, prompt_tokens: int | None = None) -> None:
        super().__init__(pipeline, prompt_tokens or 256)

    def _most(self, tokenizer: str) -> int | None:
        return self.prompt_tokens if tokenizer == "tokenizer_3" else None

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        embedded, _, pooled, _ = self.pipeline.encode_prompt(
            [*prompts],
            None,
            None,
            do_classifier_free_guidance=False,
            device=self._vae.device,
            max_sequence_length=self.prompt_tokens,
        )
        return {"encoder_hidden_states": embedded, "pooled_projections": pooled}

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(noisy, timestep=timestep, **condition, return_dict=False)[0]


class _Wan(Denoiser):
    network_name = "transformer"

    def __init__(self, pipeline: Any, prompt_tokens: int | None = None) -> None:
        super().__init__(pipeline, prompt_tokens or 512)
        two = pipeline.transformer is None or pipeline.transformer_2 is not None
        if two or pipeline.config.expand_timesteps:
            raise ModelError("a Wan with two transformers or a timestep a token cannot be aligned")
        self.temporal_stride = self._vae.config.scale_factor_temporal

    @property
    def vae_scale_factor(self) -> int:
        return self.pipeline.vae_scale_factor_spatial

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        embedded, _ = self.pipeline.encode_prompt(
            [*prompts],
            do_classifier_free_guidance=False,
            max_sequence_length=self.prompt_tokens,
            device=self._vae.device,
        )
        return {"encoder_hidden_states": embedded}

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        config = self._vae.config
        latent = self._vae.encode(pixels.to(self._vae.dtype)).latent_dist.mode()
        mean, std = (
            latent.new_tensor(one).view(1, -1, 1, 1, 1)
            for one in (config.latents_mean, config.latents_std)
        )
        return (latent - mean) / std


_KINDS: dict[str, type[Denoiser]] = {
    "StableDiffusionPipeline": Denoiser,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusion3Pipeline": _SD3,
    "WanPipeline": _Wan,
}


def build_denoiser(pipeline: Any, prompt_tokens: int | None = None) -> Denoiser:
    """What is trained in a pipeline.

    Args:
        pipeline: Of diffusers.
        prompt_tokens: Tokens of a prompt it is sampled with; None for the pipeline's default.

    Raises:
        ModelError: It is of another kind, or predicts what has no loss here.
    """
    kind = _KINDS.get(type(pipeline).__name__)
    if kind is None:
        raise ModelError(
            f"a {type(pipeline).__name__} cannot be aligned here; there are {', '.join(_KINDS)}"
        )
    return kind(pipeline, prompt_tokens)
