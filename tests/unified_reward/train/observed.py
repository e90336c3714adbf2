"""Denoisers of random tiny pipelines, compared with observed runs of these."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from tests.diffusion import FAMILIES, PIPELINES
from tests.diffusion.examine import training_size
from tests.unified_reward.train import aligned
from unified_reward import policies
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.policies import Size
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import Observation, observe
from unified_reward.train.denoisers import Denoiser


PROMPTS = ("a red star", "two blue cats")
_LONG_TAIL = [name for name in PIPELINES if name not in FAMILIES]
ALIGNED = [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in _LONG_TAIL)]
"""Parameters of tests over all pipelines, of which those that cannot be aligned skip themselves."""


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


def open_aligned(name):
    """Denoiser of a pipeline; skips where it is refused, which docs/reference/pipelines.md says."""
    if name in FAMILIES:
        return tiny_denoiser(name)
    try:
        tiny = tiny_denoiser(name)
        tiny.condition(PROMPTS[0])
        tiny.denoiser.encode_pixels(tiny.pixels(), tiny.size)
    except (ConfigError, ModelError) as error:
        pytest.skip(str(error))
    return tiny


def build(name, pipeline, sampling):
    pipeline.set_progress_bar_config(disable=True)
    policy = DiffusionPolicy(pipeline, sampling, name=name, batch_size=2)
    denoiser = Denoiser(policy)
    denoiser.freeze()
    return TinyDenoiser(denoiser, training_size(policy))


def load_tiny(folder):
    """Denoiser of a saved pipeline."""
    policy = policies.load(folder, device="cpu")
    return TinyDenoiser(Denoiser(policy), training_size(policy))


def save_with_pairs(name, folder, n=3):
    """Save a tiny pipeline as ``policy``, and pairs of its size as ``pairs.jsonl``.

    Chosen images and videos are bright noise, rejected ones dark.
    """
    pipeline, sampling = PIPELINES[name].build(), PIPELINES[name].sampling
    pipeline.save_pretrained(folder / "policy", safe_serialization=True)
    policies.write_defaults(sampling, folder / "policy")
    policy = DiffusionPolicy(pipeline, sampling, name=name, batch_size=2)
    size, task = training_size(policy), policy.tasks[0]
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        row = {"id": f"p{i}", "status": "kept", "task": task, "prompt": f"star {i}"}
        for side, lowest in (("chosen", 120), ("rejected", 0)):
            files = [f"{side}-{i}-{k}.png" for k in range(size.frames or 1)]
            for file in files:
                pixels = rng.integers(lowest, lowest + 120, (*size[:2], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / file)
            row[side] = {"video": files} if size.frames else {"image": files[0]}
        rows.append(row)
    aligned.write(rows, folder / "pairs.jsonl")
    return folder


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
