"""Trainable networks of diffusers pipelines, with their prompt encoders, autoencoder and schedule.

A denoiser encodes prompts and pixels, once each, and predicts. Knows no loss. Stable Diffusion 1
and 2, SDXL, Stable Diffusion 3 and Wan; other pipelines are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from unified_reward.core.errors import ModelError
from unified_reward.core.samples import Task
from unified_reward.train.losses import Prediction


Condition = Mapping[str, Tensor | list[Tensor]]
"""Conditioning inputs of the network by name, each of shape (B, ...), or a list of B tensors where
their shapes differ."""


class Schedule(NamedTuple):
    """Noise levels of the T timesteps a network is trained on, ascending."""

    prediction_type: Prediction
    alpha: Tensor
    """Factor of the clean latents, in [0, 1]. Shape (T,), float64."""
    sigma: Tensor
    """Standard deviation of the noise, in [0, 1]. Shape (T,), float64."""
    timestep: Tensor
    """Argument of the network, shape (T,)."""

    def nearest_steps(self, timesteps: Sequence[float]) -> Tensor:
        """Indices of the nearest of the T timesteps, ascending, without repetition."""
        wanted = torch.tensor(sorted(timesteps), dtype=torch.float64)
        return (self.timestep.double()[None] - wanted[:, None]).abs().argmin(1).unique()


def read_schedule(scheduler: Any) -> Schedule:
    """Read prediction type and noise levels from a pipeline's scheduler.

    A flow whose shift depends on the size of the sample counts as not shifted.

    Raises:
        ModelError: The prediction type or the scheduler is not supported.
    """
    config, name = scheduler.config, type(scheduler).__name__
    is_flow = "FlowMatch" in name
    kind = "flow_prediction" if is_flow else config.get("prediction_type", "epsilon")
    steps = config.num_train_timesteps
    if kind == "flow_prediction":
        is_fixed = not config.get("use_dynamic_shifting")
        shift = (is_fixed and config.get("shift", config.get("flow_shift"))) or 1.0
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        sigma = shift * even / (1 + (shift - 1) * even)
        return Schedule("flow", 1 - sigma, sigma, (sigma * steps).float())
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"{kind} cannot be aligned; epsilon, v_prediction and flows can")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(f"a {name} cannot be aligned; DDPM, DDIM, Euler and flow matching can")
    signal = scheduler.alphas_cumprod.double()
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    return Schedule(cast("Prediction", kind), alpha, sigma, torch.arange(steps))


class Denoiser:
    """The trained network of a pipeline, with the encoders of its prompts and pixels."""

    network_name = "unet"
    edits = False
    """True where the condition of a sample is an instruction and a source image."""
    has_idle_weights = False
    """True where some weights, as those of the last block for text, never reach the prediction."""
    tokenizers: tuple[str, ...] = ("tokenizer",)
    temporal_stride: int | None = None
    """A video must have k * stride + 1 frames; None for images."""

    def __init__(self, pipeline: Any, prompt_tokens: int | None = None) -> None:
        """Wrap a pipeline.

        Args:
            pipeline: A diffusers pipeline.
            prompt_tokens: Tokens of a prompt, as many as in sampling; None for its default.
        """
        self.pipeline = pipeline
        self.schedule = read_schedule(pipeline.scheduler)
        self.prompt_tokens = prompt_tokens
        self.network: Any = getattr(pipeline, self.network_name)
        """The trained network, also while accelerate wraps it."""
        self._vae: Any = pipeline.vae
        if self.network is not None and self.network.config.get("time_cond_proj_dim"):
            raise ModelError("a guidance-distilled network (time_cond_proj_dim) cannot be aligned")

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along a side of one latent position."""
        return self.pipeline.vae_scale_factor

    @property
    def size_multiple(self) -> int:
        """Height and width of images and videos must be multiples of this, in pixels."""
        patch: Any = getattr(self.pipeline, self.network_name).config.get("patch_size") or 1
        return self.vae_scale_factor * (patch if isinstance(patch, int) else patch[-1])

    def trained_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Tasks, of those of the policy, whose pairs are learned."""
        return [task for task in tasks if (task is Task.IMAGE_EDITING) == self.edits]

    def freeze(self) -> None:
        """Freeze all parts of the pipeline and set them to evaluation mode."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(requires_grad=False).eval()

    def prompt_overflow(self, prompt: str) -> tuple[int, int] | None:
        """Number of tokens and limit for a prompt that is too long; None for one that fits."""
        for name in self.tokenizers:
            tokenizer = getattr(self.pipeline, name, None)
            if tokenizer is not None:
                limit = self._token_limit(name) or tokenizer.model_max_length
                n = len(tokenizer(prompt).input_ids)
                if n > limit:
                    return n, limit
        return None

    def _token_limit(self, tokenizer: str) -> int | None:
        """Largest number of tokens of the named tokenizer; None for its own limit."""
        return self.prompt_tokens

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode B prompts as the pipeline itself does."""
        embedded = self.pipeline.encode_prompt(
            prompt=[*prompts],
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            device=self._vae.device,
        )
        return {"encoder_hidden_states": embedded[0]}

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Means of the latents, scaled as the network takes them.

        Args:
            pixels: Values in [-1, 1], shape (B, 3, H, W), or (B, 3, T, H, W) of videos.
        """
        config = self._vae.config
        latent = self._vae.encode(pixels.to(self._vae.dtype)).latent_dist.mode()
        return (latent - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Prediction of the network for noisy latents, of their shape."""
        return self.network(noisy, timestep, **condition, return_dict=False)[0]


class SDXLDenoiser(Denoiser):
    """The trained network of a Stable Diffusion XL."""

    tokenizers = ("tokenizer", "tokenizer_2")

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Means of the latents, normalised where the autoencoder says so."""
        config, scaled = self._vae.config, super().encode_pixels(pixels)
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return scaled
        mean, std = (
            scaled.new_tensor(values).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (scaled - mean * config.scaling_factor) / std

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode B prompts by both text encoders."""
        embedded, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=[*prompts], do_classifier_free_guidance=False, device=self._vae.device
        )
        return {"encoder_hidden_states": embedded, "text_embeds": pooled}

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Prediction at the size of the latents, without cropping."""
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

    def _token_limit(self, tokenizer: str) -> int | None:
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
            raise ModelError(
                "a Wan with two transformers or a timestep per token cannot be aligned"
            )
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
            latent.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (latent - mean) / std


_KINDS: dict[str, type[Denoiser]] = {
    "StableDiffusionPipeline": Denoiser,
    "StableDiffusionXLPipeline": SDXLDenoiser,
    "StableDiffusion3Pipeline": _SD3,
    "WanPipeline": _Wan,
}


def supported_pipelines() -> list[str]:
    """Classes of the pipelines that `build_denoiser` knows."""
    return [*_KINDS]


def build_denoiser(pipeline: Any, prompt_tokens: int | None = None) -> Denoiser:
    """Wrap the trainable network of a pipeline.

    Args:
        pipeline: A diffusers pipeline.
        prompt_tokens: Tokens of a prompt, as many as in sampling; None for its default.

    Raises:
        ModelError: The class of the pipeline, or its prediction type, is not supported.
    """
    kind = _KINDS.get(type(pipeline).__name__)
    if kind is None:
        raise ModelError(
            f"a {type(pipeline).__name__} cannot be aligned; supported: {', '.join(_KINDS)}"
        )
    return kind(pipeline, prompt_tokens)
