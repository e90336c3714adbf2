"""The last step of unmodified pipelines is repeated and decoded with gradients, or refused."""

import diffusers
import numpy as np
import pytest
import torch

from tests.diffusion import FAMILIES
from tests.unified_reward.policies.test_recorded import pixels, policy_of
from unified_reward.core.errors import ModelError
from unified_reward.policies import last_step
from unified_reward.policies.last_step import LastStepSampler
from unified_reward.policies.observation import networks


IMAGES = FAMILIES[: FAMILIES.index("SanaPipeline")]
LEVEL = 1 / 255


@pytest.mark.parametrize("name", IMAGES)
def test_the_last_step_is_decoded_to_the_pixels_of_the_plain_sample(name):
    policy = policy_of(name)
    rollout = LastStepSampler(policy).sample("a red star", (), [1, 2])
    assert (pixels(rollout.samples) == pixels(policy.sample("a red star", (), [1, 2]))).all()
    parts = networks(policy.pipeline)
    decoded = rollout.decoder.pixels(rollout.last.latents(rollout.last.prediction(parts)))
    apart = decoded.detach().movedim(1, -1).numpy() - pixels(rollout.samples) / 255
    assert np.abs(apart).max() <= 0.501 * LEVEL  # half a level is what rounding to levels takes
    decoded.sum().backward()
    assert all(any(w.grad is not None for w in part.parameters()) for part in parts.values())


@pytest.mark.parametrize("solver", ["PNDM", "UniPCMultistep", "DPMSolverMultistep", "HeunDiscrete"])
def test_any_solver_will_do(solver):
    """The step depends on predictions before it, or takes several calls."""
    policy = policy_of("StableDiffusionPipeline", steps=5)
    kind = getattr(diffusers, f"{solver}Scheduler")
    policy.pipeline.scheduler = kind.from_config(policy.pipeline.scheduler.config)
    sampler = LastStepSampler(policy)
    rollout = sampler.sample("a red star", (), [1, 2])
    assert (pixels(rollout.samples) == pixels(policy.sample("a red star", (), [1, 2]))).all()
    again = sampler.sample("a red star", (), [2, 3]).last
    prediction = again.prediction(networks(policy.pipeline))
    assert torch.equal(again.latents(prediction), again.latents(prediction))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PixArtSigmaPipeline", r"a sample is \[24, 40, 3\], and decoded \[192, 320, 3\]"),
        ("WanPipeline", "it has no image_processor"),
        ("SkyReelsV2DiffusionForcingPipeline", "it does not take the last step"),
    ],
)
def test_a_pipeline_of_another_kind_is_refused(name, reason):
    with pytest.raises(ModelError, match=f"{name} has no gradients of its last step: .*{reason}"):
        LastStepSampler(policy_of(name)).sample("a red star", (), [1, 2])


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ((last_step.LastStep, "latents"), "its last latents are .* from those sampled"),
        ((last_step.Decoder, "pixels"), "its pixels are .* from those sampled"),
    ],
)
def test_what_is_repeated_otherwise_is_refused(part, reason, monkeypatch):
    own = getattr(*part)
    monkeypatch.setattr(*part, lambda self, given: own(self, given) * 1.01 + 0.01)
    with pytest.raises(ModelError, match=reason):
        LastStepSampler(policy_of("StableDiffusionPipeline")).sample("a red star", (), [1, 2])


def test_a_decoder_without_gradients_is_refused(monkeypatch):
    own = last_step.Decoder.pixels
    monkeypatch.setattr(last_step.Decoder, "pixels", torch.no_grad()(own))
    with pytest.raises(ModelError, match="or its decoder, runs without them"):
        LastStepSampler(policy_of("StableDiffusionPipeline")).sample("a red star", (), [1, 2])
