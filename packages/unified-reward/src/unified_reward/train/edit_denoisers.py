"""Trainable networks of editing pipelines, whose condition is an instruction and a source image.

The condition is the pipeline's own call of its network, so that packing, positions, embedded
guidance and the source's latents are its own. InstructPix2Pix, also of SDXL, FLUX Kontext and
Qwen-Image-Edit; other pipelines are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from PIL.Image import Image as PILImage
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.denoisers import (
    Condition,
    Denoiser,
    SDXLDenoiser,
    build_denoiser,
    supported_pipelines,
)
from unified_reward.train.network_calls import (
    FORM,
    flatten,
    group_calls,
    intercept_call,
    pack_call,
    unflatten,
)


class _Layout(NamedTuple):
    """Places of noise and timestep in a network's call."""

    noisy: str
    """Argument that holds the noisy latents, and behind them the source's, in dimension 1."""
    length: int
    """Channels or tokens of the noisy latents."""
    batched: tuple[str, ...]
    """Dotted names of the tensors whose first dimension is the batch."""
    timestep_scale: float
    """Argument of the network by timestep of the scheduler."""


class EditDenoiser(Denoiser):
    """The trained network of an editing pipeline, with the encoders of its inputs."""

    edits = True
    tokenizers = ("tokenizer", "tokenizer_2")

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Wrap the pipeline of a policy.

        Args:
            policy: Its sampling options decide embedded guidance and the size of the source.
        """
        self.policy = policy
        longest = policy.takes.get("max_sequence_length")
        super().__init__(
            policy.pipeline, policy.options.prompt_tokens or (longest.default if longest else None)
        )
        self._layouts: dict[tuple[int, int], _Layout] = {}

    @property
    def size_multiple(self) -> int:
        """Height and width of edits must be multiples of this, in pixels."""
        return self.policy.size_multiple

    def _token_limit(self, tokenizer: str) -> int | None:
        return self.prompt_tokens if tokenizer == "tokenizer_2" else None

    def encode_edit(
        self, prompt: Mapping[str, Any], source: PILImage, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Encode an instruction and its source image as the pipeline does, without the batch.

        Args:
            prompt: The instruction as ``prompt``, or its embeddings, as arguments of the pipeline.
            source: The image to edit.
            size: Height and width of the edits, in pixels.

        Raises:
            ModelError: The pipeline calls its network in a way that cannot be repeated.
            ValueError: The pipeline refuses an argument.
        """
        call = self._call(prompt, source, size, 1)
        if size not in self._layouts:
            self._layouts[size] = self._find_layout(call, self._call(prompt, source, size, 2), size)
        layout = self._layouts[size]
        call[layout.noisy] = call[layout.noisy][:, layout.length :]
        del call["timestep"]
        batched = [name for name in layout.batched if name != "timestep"]
        scale = layout.timestep_scale
        return pack_call(call, batched, noisy=layout.noisy, timestep_scale=scale)

    def _call(
        self, prompt: Mapping[str, Any], source: PILImage, size: tuple[int, int], n: int
    ) -> dict[str, Any]:
        """Arguments of the network's first call for n edits, each from its own noise, unguided."""
        takes = self.policy.takes
        inputs = self.policy.edit_inputs(source, n, size) | {"num_inference_steps": 2, **prompt}
        if "image_guidance_scale" in takes:
            inputs["guidance_scale"] = 1.0
        if "true_cfg_scale" in takes:
            inputs |= {"true_cfg_scale": 1.0, "negative_prompt": None}
        if self._vae.device.type != "meta":
            inputs["generator"] = [torch.Generator().manual_seed(i) for i in range(n)]
        return intercept_call(self.network, lambda: self.pipeline(**inputs))

    def _find_layout(
        self, alone: dict[str, Any], both: dict[str, Any], size: tuple[int, int]
    ) -> _Layout:
        """Compare the calls for one edit and for two, which differ in batch and noise alone."""
        single, double = flatten(alone)[1], flatten(both)[1]
        batched = tuple(
            name
            for name, value in single.items()
            if value.ndim and double[name].shape == (2 * len(value), *value.shape[1:])
        )
        noisy, name = next(iter(alone)), type(self.network).__name__
        device = self._vae.device
        latents = self.encode_pixels(torch.zeros(1, 3, *size, device=device))
        length, inputs = latents.shape[1], double[noisy]
        fits = inputs.shape[:1] + inputs.shape[2:] == (2, *latents.shape[2:])
        if not fits or noisy not in batched or inputs.shape[1] <= length:
            raise ModelError(
                f"the {name} takes {noisy} of shape {tuple(single[noisy].shape)}, which is not "
                f"noisy latents of shape {tuple(latents.shape)} followed by those of a source"
            )
        if device.type == "meta":
            return _Layout(noisy, length, batched, 1.0)
        differs = (inputs[0] != inputs[1]).flatten(1).any(1)
        if not differs[:length].all() or differs[length:].any():
            raise ModelError(f"the {name} takes noise elsewhere than at the begin of {noisy}")
        given = float(single["timestep"].flatten()[0])
        scale = given / float(self.pipeline.scheduler.timesteps[0])
        steps = self.pipeline.scheduler.config.num_train_timesteps
        known = [rate for rate in (1.0, 1 / steps) if abs(scale / rate - 1) < 1e-3]
        if not known:
            raise ModelError(f"the {name} takes timesteps of an unknown scale, {scale:g}")
        return _Layout(noisy, length, batched, known[0])

    def predict(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Prediction for noisy latents, of their shape; a pass for each form of the calls."""
        groups = group_calls([*condition[FORM]])
        parts: list[Tensor] = []
        for form, rows in groups.items():
            call = json.loads(form)
            tensors = {
                name: torch.stack([condition[name][i] for i in rows])
                if name in call["batched"]
                else condition[name][rows[0]]
                for name in call["tensors"]
            }
            steps = timestep[rows]
            if call["timestep_scale"] != 1.0:
                steps = steps.float() * call["timestep_scale"]
            arguments: dict[str, Any] = unflatten(call["arguments"], tensors)
            arguments["timestep"] = steps
            source = arguments[call["noisy"]]
            arguments[call["noisy"]] = torch.cat([noisy[rows], source], 1)
            parts.append(self.network(**arguments)[0][:, : noisy.shape[1]])
        order = torch.tensor([i for rows in groups.values() for i in rows])
        return torch.cat(parts)[order.argsort().to(noisy.device)]


class _Pix2Pix(EditDenoiser):
    network_name = "unet"


class _SDXLPix2Pix(EditDenoiser, SDXLDenoiser):
    network_name = "unet"


class _Kontext(EditDenoiser):
    network_name = "transformer"

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        latents = self.pipeline._encode_vae_image(pixels.to(self._vae.dtype), None)
        return self._pack(latents)

    def _pack(self, latents: Tensor) -> Tensor:
        batch, channels, *_, height, width = latents.shape
        return self.pipeline._pack_latents(latents, batch, channels, height, width)


class _QwenEdit(_Kontext):
    has_idle_weights = True

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels[:, :, None])


_KINDS: dict[str, type[EditDenoiser]] = {
    "StableDiffusionInstructPix2PixPipeline": _Pix2Pix,
    "StableDiffusionXLInstructPix2PixPipeline": _SDXLPix2Pix,
    "FluxKontextPipeline": _Kontext,
    "QwenImageEditPipeline": _QwenEdit,
    "QwenImageEditPlusPipeline": _QwenEdit,
}


def denoiser_of(policy: DiffusionPolicy) -> Denoiser:
    """Wrap the trainable network of a policy; of a pipeline that edits, for editing.

    Raises:
        ModelError: The class of the pipeline, or its prediction type, is not supported.
    """
    name = type(policy.pipeline).__name__
    if name in _KINDS:
        return _KINDS[name](policy)
    if name not in supported_pipelines():
        known = ", ".join([*supported_pipelines(), *_KINDS])
        raise ModelError(f"a {name} cannot be aligned; supported: {known}")
    return build_denoiser(policy.pipeline, policy.options.prompt_tokens)
