"""Last step of sampling, repeated with gradients and decoded to pixels.

What direct reward gradients need (DRaFT-1, arXiv:2309.17400). The pipeline runs unmodified; its own
scheduler takes the step again, and its own autoencoder decodes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.samples import Image, Video
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.latent_maps import LatentMap, find_latent_map
from unified_reward.policies.layouts import Mixture, close, explain, split_outputs
from unified_reward.policies.observation import Call, Step, networks, observe, step_of, watching
from unified_reward.policies.prompt_calls import BROKEN
from unified_reward.policies.recorded import Rollout, repeat_prediction


_PROBE_STEPS = 4
_LEVEL = 1 / 255
_ROUNDING = 1e-3
"""Largest difference of decoded pixels in [0, 1] that other kernels of a GPU make in float32."""


@dataclass(frozen=True, eq=False)
class LastStep:
    """Last step of B samples, with the calls of the networks that lead to it."""

    step: Step
    """Its calls are without outputs."""
    mixture: Mixture
    """Makes the prediction from the outputs, with guidance."""
    scheduler: Any
    """The scheduler as it was before the step."""
    arguments: Mapping[str, Any]
    """Arguments of the scheduler's step by name."""

    def prediction(self, parts: Mapping[str, nn.Module]) -> Tensor:
        """Prediction of the networks, by the names of their components; with gradients."""
        return repeat_prediction(self.step, self.mixture, parts)

    def latents(self, prediction: Tensor) -> Tensor:
        """Latents after the step, shape (B, ...), by the scheduler's own step."""
        arguments = {
            "model_output": prediction.to(self.step.prediction),
            "sample": self.step.sample,
        }
        return copy.deepcopy(self.scheduler).step(**{**self.arguments, **arguments})[0]


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decoder of a pipeline from its last latents to pixels, with gradients."""

    pipeline: Any
    latent_map: LatentMap

    def pixels(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1] of B images, shape (B, 3, H, W)."""
        vae = self.pipeline.vae
        decoded = vae.decode(self.latent_map.decode(latents).to(vae.dtype), return_dict=False)[0]
        if decoded.ndim == 5:  # an autoencoder of videos has images of one frame
            decoded = decoded[:, :, 0]
        return self.pipeline.image_processor.postprocess(decoded, output_type="pt")


@dataclass(frozen=True, eq=False)
class DifferentiableRollout(Rollout):
    """Samples of a prompt, whose last step can be repeated down to their pixels."""

    last: LastStep
    decoder: Decoder


class LastStepSampler:
    """Samples of a policy that keep their last step; any scheduler will do."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy
        self._decoders: dict[tuple[int, ...], Decoder] = {}
        """Proven decoders by the shape of the latents."""

    @torch.no_grad()
    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> DifferentiableRollout:
        """Sample in one batch. The first time, the last step is repeated, decoded and compared.

        Args:
            prompt: A caption, or the instruction of an edit.
            context: The source image of an edit; empty for generation.
            seeds: Seeds of the samples.

        Raises:
            ModelError: The last step or its decoding cannot be repeated; the message says why.
            ValueError: As `DiffusionPolicy.sample`.
        """
        pipeline, name = self.policy.pipeline, self.policy.name
        tape = _Tape(pipeline, self.policy.guidance_scales)
        try:
            with watching(pipeline, tape.calls.append, tape.on_step):
                samples = self.policy.generate(prompt, context, seeds)
            if tape.last is None:
                raise ModelError("it does not take the last step of its scheduler")
            decoder = self._decoders.get(shape := tuple(tape.latents.shape[1:]))
            if decoder is None:
                decoder = Decoder(pipeline, self._latent_map(prompt, context, shape))
                _prove(tape.last, tape.latents, decoder, samples)
                if any(samples):  # samples that were withheld prove nothing
                    self._decoders[shape] = decoder
        except (ModelError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise ModelError(
                f"{name} has no gradients of its last step: {one_line(error)}"
            ) from error
        return DifferentiableRollout(samples, tape.latents, [], tape.last, decoder)

    def _latent_map(
        self, prompt: str, context: Sequence[Image | Video], shape: tuple[int, ...]
    ) -> LatentMap:
        """Find how latents of this shape reach the decoder, in runs of few steps."""
        policy, pipeline = self.policy, self.policy.pipeline
        if not hasattr(pipeline, "image_processor"):
            raise ModelError("it has no image_processor; only those of images have gradients")
        inputs = policy.inputs(prompt, 2, policy.open_source(context) if context else None)
        inputs |= {"num_inference_steps": _PROBE_STEPS, "output_type": "np"}

        def decode(latents: Tensor) -> Tensor:
            generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
            seen = observe(
                pipeline,
                lambda: pipeline(**inputs, generator=generators),
                result=lambda like: latents.to(like.device, like.dtype),
            )
            if seen.decoded is None:
                raise ModelError("it does not decode by its vae")
            return seen.decoded

        try:
            return find_latent_map(decode, shape)
        except BROKEN as error:
            raise ModelError(f"in {_PROBE_STEPS} steps: {one_line(error)}") from error


class _Tape:
    """Keeps the last step of a run."""

    def __init__(self, pipeline: Any, guidance: Sequence[float]) -> None:
        self.calls: list[Call] = []
        self.last: LastStep | None = None
        self.latents = torch.empty(0)
        self._scheduler, self._guidance = pipeline.scheduler, guidance
        self._taken = 0

    def on_step(self, take: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Take a step of the scheduler, and keep the last."""
        self._taken += 1
        if self._taken == len(self._scheduler.timesteps):
            step = step_of(self.calls, arguments)
            mixture = explain(step, self._guidance)
            # Computed as when the step is repeated.
            mixed = mixture.mix(split_outputs(step), step.sample.shape).to(step.prediction)
            arguments = {**arguments, "model_output": mixed}
            kept = tuple(call._replace(output=None) for call in step.calls)
            before = copy.deepcopy(self._scheduler)
            self.last = LastStep(step._replace(calls=kept), mixture, before, arguments)
        self.calls.clear()
        result = take(**arguments)
        self.latents = result[0]
        return result


def _prove(
    last: LastStep, sampled: Tensor, decoder: Decoder, samples: Sequence[Image | Video | None]
) -> None:
    """Check that the last step, repeated, makes the latents and the pixels that were sampled.

    Raises:
        ModelError: It does not, or without gradients.
    """
    parts = networks(decoder.pipeline)
    with torch.enable_grad():
        latents = last.latents(last.prediction(parts).detach().requires_grad_())
        pixels = decoder.pixels(latents)
    if not close(latents, sampled, 1e-4):
        apart = float((latents - sampled).abs().max())
        raise ModelError(f"repeated, its last latents are {apart:.1e} from those sampled")
    if not pixels.requires_grad:
        raise ModelError("its last step, or its decoder, runs without them")
    allowed = _LEVEL / 2 + max(_ROUNDING, 4 * torch.finfo(pixels.dtype).eps)
    for made, decoded in zip(samples, pixels.detach().cpu().movedim(1, -1), strict=True):
        if made is None:
            continue
        wanted = torch.from_numpy(np.asarray(made.source)) / 255
        if wanted.shape != decoded.shape:
            raise ModelError(f"a sample is {[*wanted.shape]}, and decoded {[*decoded.shape]}")
        if not (apart := float((decoded - wanted).abs().max())) <= allowed:
            raise ModelError(f"decoded again, its pixels are {apart:.1e} from those sampled")
