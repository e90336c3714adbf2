"""Denoisers of random tiny pipelines, compared with observed runs of these."""

from typing import NamedTuple

import torch

from tests.diffusion import PIPELINES
from unified_reward.policies import Size
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import Observation, observe
from unified_reward.train.denoisers import Denoiser


PROMPTS = ("a red star", "two blue cats")
_UNBINNED = ("PixArt", "Sana")
"""Their sampling options have sizes that become others by ratio, which is off in training."""


class TinyDenoiser(NamedTuple):
    """A denoiser, and the size of its samples."""

    denoiser: Denoiser
    size: Size

    @property
    def policy(self):
        return self.denoiser.policy

    @property
    def pipeline(self):
        return self.denoiser.pipeline

    def observe(self, prompt=PROMPTS[0], *, source=None, n=1, **options) -> Observation:
        """Observe a run of three steps."""
        inputs = self.policy.inputs(prompt, n, source, self.size)
        seeds = [torch.Generator().manual_seed(seed) for seed in range(n)]
        inputs |= {"num_inference_steps": 3, "generator": seeds, "output_type": "np"}
        with torch.no_grad():
            return observe(self.pipeline, lambda: self.pipeline(**inputs), **options)

    def condition(self, *prompts, source=None):
        """Condition of a batch of prompts."""
        rows = [self.denoiser.encode_prompt(prompt, self.size, source) for prompt in prompts]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def pixels(self, n=1):
        """Random images or videos."""
        shape = (self.size.frames,) * bool(self.size.frames) + self.size[:2]
        return torch.rand(n, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny_denoiser(name):
    """Denoiser of a pipeline of ``tests.diffusion``."""
    sampling = PIPELINES[name].sampling
    return build(name, PIPELINES[name].build(), sampling)


def build(name, pipeline, sampling):
    pipeline.set_progress_bar_config(disable=True)
    policy = DiffusionPolicy(pipeline, sampling, name=name, batch_size=2)
    denoiser = Denoiser(policy)
    denoiser.freeze()
    return TinyDenoiser(denoiser, sample_size(name, sampling))


def sample_size(name, sampling):
    if name.startswith(_UNBINNED):
        return Size(64, 128)
    return Size(sampling.height, sampling.width, sampling.frames)


class Replay(NamedTuple):
    """Differences between a denoiser's predictions and a run, relative to the largest value."""

    conditional: float
    """To the output of the network for the prompt."""
    mixed: float
    """To what the scheduler gets, from the prediction and the other output of the step; 0 where
    the norm of the mixture is changed too."""
    guidance: float
    """Smallest weight of the prediction in a step."""


@torch.no_grad()
def replay(tiny, condition=None, *, source=None, is_normed=False):
    """Predict for every step of a run, and compare."""
    condition = condition or tiny.condition(PROMPTS[0], source=source)
    differences = []
    for step in tiny.observe(source=source).steps:
        noisy = network_latents(step)
        found = tiny.denoiser.predict(noisy, step.timestep.reshape(1), condition)
        outputs = [
            part(torch.stack([row]), found.shape) for call in step.calls for row in call.output
        ]
        signed = [sign * output for output in outputs for sign in (1, -1)]
        nearest = min(range(len(signed)), key=lambda i: difference(signed[i], found))
        others = [o for i, o in enumerate(signed) if i % 2 == nearest % 2 and i != nearest]
        other = others[0] if others else torch.zeros_like(found)
        gap, wanted = (found - other).flatten(), (step.prediction - other).flatten()
        weight = float(gap @ wanted / (gap @ gap))
        mixed = 0.0 if is_normed else difference(other + weight * (found - other), step.prediction)
        differences.append((difference(signed[nearest], found), mixed, weight))
    first, second, weights = zip(*differences, strict=True)
    return Replay(max(first), max(second), min(weights))


def network_latents(step):
    """Noisy latents of a sample as the network gets them, which some schedulers scale."""
    arguments = step.calls[0].arguments
    (noisy,) = (arguments[name] for name in ("sample", "hidden_states", "x") if name in arguments)
    return part(torch.stack([noisy[0]]), step.sample.shape)


def part(output, shape):
    """An output in the shape of latents; of more channels the first."""
    if output.numel() == shape.numel():
        return output.reshape(shape)
    (dim,) = (d for d in range(output.ndim) if output.shape[d] != shape[d])
    return output.narrow(dim, 0, shape[dim])


def difference(a, b):
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / max(a.abs().max(), b.abs().max()))


@torch.no_grad()
def decoded_latents(tiny, monkeypatch, source=None):
    """Encoded latents of an image or video as the decoder gets them, and as the encoder made them.

    Encoded by the denoiser, they take the place of the last latents of a run.
    """
    vae, made = tiny.pipeline.vae, []
    encode = vae.encode

    def watched(pixels, *rest, **named):
        output = encode(pixels, *rest, **named)
        made.append(output.latent_dist.mode() if hasattr(output, "latent_dist") else output[0])
        return output

    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", watched)
        latents = tiny.denoiser.encode_pixels(tiny.pixels(), tiny.size)
    seen = tiny.observe(source=source, result=lambda like: latents.to(like.dtype))
    return seen.decoded, torch.cat(made)
