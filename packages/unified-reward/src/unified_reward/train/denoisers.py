"""Trainable networks of any diffusers pipeline, with its own conditions, latents and schedule.

What the networks take is observed while the pipeline samples, and proven to give the same
predictions before anything is trained. Knows no family of pipelines, and no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL.Image import Image as PILImage
from torch import Tensor, nn

from unified_reward.core.errors import ConfigError, DataError, ModelError, one_line
from unified_reward.policies import Size
from unified_reward.policies.autoencoders import mixing
from unified_reward.policies.diffusion import DiffusionPolicy, refuse_control
from unified_reward.policies.latent_maps import LatentMap, latent_map_of_shapes
from unified_reward.policies.observation import networks
from unified_reward.policies.packing import unpack
from unified_reward.policies.prompt_calls import BROKEN, PromptCall, Run, find_prompt_call
from unified_reward.policies.prompt_lengths import prompt_lengths
from unified_reward.train.schedule import check_schedule, read_schedule


Condition = Mapping[str, Tensor | list[Tensor]]
"""Packed calls of the network by name, each of shape (B, ...), or a list of B tensors where their
shapes differ."""
_STEPS = 3
"""Steps of an observed run; the fewest that show the scale of timesteps."""
_PROBE = "a photograph of a red star"
"""Prompt by which the call of the network is found; it must differ from that of guidance."""

_SHORT = 128
"""Letters of a prompt that every text encoder reads to the end."""
_END = 8


class Networks(nn.ModuleDict):
    """Networks of a pipeline by name, in one module, as accelerate wants it."""

    def forward(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """First output of the named network."""
        return self[name](**arguments)[0]


class Denoiser:
    """Trained networks of a pipeline, with the encoders of its inputs."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Wrap the pipeline of a policy.

        Args:
            policy: Its sampling options decide guidance that is embedded, the length of prompts
                and the size of the source of an edit.

        Raises:
            ModelError: The scheduler has no schedule of training, or no network can be trained.
        """
        self.policy = policy
        self.pipeline: Any = policy.pipeline
        name = type(self.pipeline).__name__
        parts = networks(self.pipeline)
        if not parts or getattr(self.pipeline, "vae", None) is None:
            lacking = "autoencoder" if parts else "unet and no transformer"
            raise ModelError(f"a {name} cannot be aligned: it has no {lacking}")
        self.schedule = read_schedule(self.pipeline.scheduler)
        self.networks = Networks(parts)
        self.network: Any = self.networks
        """The trained networks, also while accelerate wraps them."""
        configs: list[Any] = [part.config for part in parts.values()]
        if any(config.get("time_cond_proj_dim") for config in configs):
            raise ModelError("a guidance-distilled network (time_cond_proj_dim) cannot be aligned")
        ratio = self.pipeline.config.get("boundary_ratio") if len(parts) > 1 else None
        if len(parts) > 1 and ratio is None:
            raise ModelError(
                f"a {name} has several networks ({', '.join(parts)}) and no boundary_ratio that "
                "says which timesteps are whose"
            )
        self._boundary = (ratio or 0.0) * self.pipeline.scheduler.config.num_train_timesteps
        self._calls: dict[tuple[Size, bool], PromptCall] = {}
        self._maps: dict[Size, LatentMap] = {}

    def freeze(self) -> None:
        """Freeze all parts of the pipeline and set them to evaluation mode."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(requires_grad=False).eval()

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str, size: Size, source: PILImage | None = None
    ) -> dict[str, Tensor]:
        """Encode a prompt, and the source image of an edit, as the pipeline does.

        Returns:
            Condition of one sample, without the batch.

        Raises:
            DataError: No text encoder reads the prompt to its end.
            ModelError: The pipeline samples in a way that cannot be repeated.
            ValueError: The pipeline refuses an argument, or the prompt spells a control token.
        """
        refuse_control(self.pipeline, prompt)
        self.policy.inputs(prompt, 1, source, size)
        is_edit = source is not None
        run = self._run(lambda n: self.policy.inputs(_PROBE, n, source, size))
        call = self._prompt_call(run, size, is_edit=is_edit)

        def encode(text: str) -> dict[str, Tensor]:
            inputs = self._run(lambda n: self.policy.inputs(text, n, source, size))
            with mixing(self.pipeline):
                return call.encode(self.pipeline, inputs)

        with prompt_lengths() as lengths:
            condition = encode(prompt)
        if overflow := lengths.overflow():
            raise DataError(
                f"its prompt has {overflow.tokens} tokens, and the text encoder reads "
                f"{overflow.limit}"
            )
        # Some pipelines cut embeddings without a word.
        if len(prompt) > _SHORT and _are_equal(condition, encode(prompt.rstrip()[:-_END])):
            raise DataError(f"its prompt is too long: the last {_END} letters make no difference")
        return condition

    @torch.no_grad()
    def encode_inputs(
        self, inputs: Callable[[int], Mapping[str, Any]], size: Size, *, is_edit: bool
    ) -> dict[str, Tensor]:
        """Encode a call of the pipeline with embeddings of a prompt, on the meta device.

        Args:
            inputs: Arguments of the pipeline for so many samples, without generators.
            size: Size of the samples.
            is_edit: True with a source image.

        Returns:
            Condition of one sample, without the batch.

        Raises:
            ModelError: The pipeline samples in a way that cannot be repeated.
        """
        run = self._run(inputs)
        return self._prompt_call(run, size, is_edit=is_edit).encode(self.pipeline, run)

    def _run(self, inputs: Callable[[int], Mapping[str, Any]]) -> Run:
        """Run of the pipeline in a few steps, with these arguments for so many samples."""

        def run(n: int) -> object:
            generators = [torch.Generator().manual_seed(seed) for seed in range(n)]
            few = {"num_inference_steps": _STEPS, "output_type": "np", "generator": generators}
            return self.pipeline(**{**inputs(n), **few})

        return run

    def decoder_shape(self, size: Size) -> tuple[int, ...]:
        """Shape of the decoder's input for a sample, with its batch; a prompt is encoded before."""
        return self._maps[size].decoder_shape

    def _prompt_call(self, run: Run, size: Size, *, is_edit: bool) -> PromptCall:
        if known := self._calls.get((size, is_edit)):
            return known
        try:
            with mixing(self.pipeline):
                call = find_prompt_call(
                    self.pipeline,
                    run,
                    self.policy.guidance_scales,
                    lambda t: next(iter(self._by_network(torch.tensor([t])))),
                )
            check_schedule(self.schedule, self.pipeline.scheduler, call.scales)
            self._maps[size] = self._latent_map(call, run, size)
        except (ModelError, *BROKEN) as error:
            if is_edit and isinstance(error, ValueError):  # the pipeline refuses the source
                raise
            raise ModelError(
                f"{self.policy.name} cannot be aligned at {_text(size)}: {one_line(error)}"
            ) from error
        self._calls[size, is_edit] = call
        return call

    def _latent_map(self, call: PromptCall, run: Run, size: Size) -> LatentMap:
        vae = self.pipeline.vae
        try:
            with mixing(self.pipeline):
                return call.latent_map(self.pipeline, run)
        except BROKEN:
            if vae.device.type != "meta" or size.frames:
                raise
        # Some pipelines unpack latents by numbers, such as their positions.
        pixels = torch.empty(1, 3, size.height, size.width, device="meta")
        latents = vae.encode(pixels).latent_dist.mode()
        return latent_map_of_shapes(call.shape, tuple(latents.shape))

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, size: Size) -> Tensor:
        """Means of the latents, as the pipeline denoises them; a prompt is encoded before.

        Args:
            pixels: Values in [-1, 1], shape (B, 3, H, W), or (B, 3, T, H, W) of videos.
            size: Height, width and frames of them.

        Raises:
            ConfigError: The autoencoder makes latents of another shape from this size.
        """
        latent_map, vae = self._maps[size], self.pipeline.vae
        wanted = latent_map.decoder_shape[1:]
        if pixels.ndim == 5 and len(wanted) == 3:
            pixels = pixels.movedim(2, 1).flatten(0, 1)
        elif pixels.ndim == 4 and len(wanted) == 4:
            pixels = pixels[:, :, None]
        encoded = vae.encode(pixels.to(vae.device, vae.dtype))
        has_spread = hasattr(encoded, "latent_dist")
        latents = encoded.latent_dist.mode() if has_spread else encoded[0]
        if latents.shape[1:] != wanted:
            raise ConfigError(
                f"{_text(size)} become latents of shape "
                f"{tuple(latents.shape[1:])}, and the pipeline decodes {wanted}; give sides "
                f"that are multiples of {self.policy.size_multiple}"
            )
        return latent_map.encode(latents)

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Prediction for noisy latents, of their shape; a pass for each form and network.

        Args:
            noisy: Noisy latents, shape (B, ...).
            timestep: Timesteps of the scheduler, shape (B,).
            condition: Conditions of the samples.
        """
        parts: list[Tensor] = []
        order: list[int] = []
        for call in unpack(condition):
            for name, places in self._by_network(_rows(timestep, call.indices)).items():
                indices = [call.indices[i] for i in places]
                arguments = call.repeat.arguments(
                    [call.arguments[i] for i in places],
                    _rows(noisy, indices),
                    _rows(timestep, indices),
                )
                try:
                    output = self.network(name, arguments)
                except TypeError as error:
                    raise ModelError(
                        f"the {name} cannot be called again; if adapters are the reason, train all "
                        f"weights (optim.lora_rank=0): {error}"
                    ) from error
                parts.append(call.repeat.prediction(output, noisy.shape[1:]))
                order += indices
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[torch.tensor(order).argsort().to(noisy.device)]

    def _by_network(self, timestep: Tensor) -> dict[str, list[int]]:
        """Places of the timesteps by the network that they belong to."""
        first, *others = self.networks
        if not others:
            return {first: [*range(len(timestep))]}
        if timestep.is_meta:  # has no numbers: one sample for each
            timestep = torch.tensor([self._boundary, 0.0]).repeat(len(timestep))[: len(timestep)]
        is_late = (timestep < self._boundary).tolist()
        places = {
            name: [i for i, late in enumerate(is_late) if late == (name != first)]
            for name in (first, others[0])
        }
        return {name: found for name, found in places.items() if found}


def _rows(values: Tensor, ascending: list[int]) -> Tensor:
    """Rows of the indices; without a copy where they are all."""
    return values if len(ascending) == len(values) else values[ascending]


def _are_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _text(size: Size) -> str:
    frames = f"{size.frames} frames of " if size.frames else ""
    return f"{frames}{size.height} x {size.width} pixels"
