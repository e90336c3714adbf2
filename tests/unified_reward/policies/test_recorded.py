"""Recorded sampling repeats the steps of unmodified pipelines to the last bit, with gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.diffusion import FAMILIES, PIPELINES
from tests.diffusion.examine import rules_of
from unified_reward.core.errors import ModelError
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import networks
from unified_reward.policies.recorded import StochasticSampler
from unified_reward.policies.step_rules import log_prob


FIRST_ORDER = ("Euler", "DDIM")


def policy_of(name, steps=4):
    tiny = PIPELINES[name]
    policy = DiffusionPolicy(
        tiny.build(), replace(tiny.sampling, steps=steps), name=name, batch_size=2
    )
    policy.pipeline.set_progress_bar_config(disable=True)
    return policy


def pixels(samples):
    return np.stack([np.asarray(sample.source, np.int16) for sample in samples])


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request):
    return policy_of(request.param)


def test_a_repeated_step_has_the_density_it_was_sampled_with(policy):
    parts = networks(policy.pipeline)
    steps = []
    for rule in rules_of(policy.pipeline):
        rollout = StochasticSampler(policy, rule).sample("a red star", (), [1, 2], (0, 2))
        assert [each.step.index for each in rollout.steps] == [0, 2]
        steps += rollout.steps
    for each in steps:
        taken = log_prob(each.step.next_sample, each.step.mean, each.step.std)
        repeated = each.log_prob(parts)
        assert torch.equal(repeated.detach(), taken)
        assert repeated.requires_grad
        repeated.sum().backward()
    called = {call.network for each in steps for call in each.calls}
    assert called == {*parts}
    for part in parts.values():
        assert any(weight.grad is not None and weight.grad.any() for weight in part.parameters())
        part.zero_grad()


@pytest.mark.parametrize(
    "name", ["AuraFlowPipeline", "CogView4Pipeline", "QwenImagePipeline", "SanaPipeline"]
)
def test_half_precision_is_repeated_to_the_last_bit(name):
    """With a scale of 3.5 for two of them, which is neither 3 nor 4."""
    policy = policy_of(name)
    policy.pipeline.to(dtype=torch.bfloat16)
    rollout = StochasticSampler(policy).sample("a red star", (), [1, 2, 3], (0, 1, 2))
    for each in rollout.steps:
        taken = log_prob(each.step.next_sample, each.step.mean, each.step.std)
        assert torch.equal(each.log_prob(networks(policy.pipeline)).detach(), taken)


def test_steps_that_differ_within_half_precision_are_refused_by_their_density():
    """Self-attention guidance has an output of other latents, which no scale of guidance gives."""
    policy = policy_of("StableDiffusionSAGPipeline")
    policy.pipeline.to(dtype=torch.bfloat16)
    with pytest.raises(ModelError, match=r"repeated, step \d predicts something else"):
        StochasticSampler(policy).sample("a red star", (), [1, 2, 3], (0, 1, 2))


def test_without_a_window_the_samples_are_those_of_the_plain_pipeline(policy):
    plain = pixels(policy.sample("a red star", (), [1, 2]))
    rollout = StochasticSampler(policy).sample("a red star", (), [1, 2], ())
    assert (pixels(rollout.samples) == plain).all()
    assert not rollout.steps


def test_steps_without_noise_are_those_of_a_first_order_solver(policy):
    if not any(kind in type(policy.pipeline.scheduler).__name__ for kind in FIRST_ORDER):
        pytest.skip("a solver of higher order starts again after a recorded step")
    plain = pixels(policy.sample("a red star", (), [1, 2]))
    still = StochasticSampler(policy, strength=0.0).sample("a red star", (), [1, 2], (0, 1, 2))
    assert np.abs(pixels(still.samples) - plain).max() <= 1
    assert all(each.step.std == 0 for each in still.steps)


def test_noise_makes_other_samples_and_belongs_to_its_seed(policy):
    sampler = StochasticSampler(policy)
    both = sampler.sample("a red star", (), [1, 2], (0, 1))
    alone = sampler.sample("a red star", (), [2], (0, 1))
    assert np.abs(pixels(both.samples)[1] - pixels(alone.samples)[0]).max() <= 2
    other = sampler.sample("a red star", (), [1, 2], (0, 1), noise_seeds=[8, 9])
    assert torch.equal(other.steps[0].step.sample, both.steps[0].step.sample)
    assert not torch.equal(other.steps[0].step.next_sample, both.steps[0].step.next_sample)


def test_other_weights_have_another_density():
    policy = policy_of("FluxPipeline")
    rollout = StochasticSampler(policy).sample("a red star", (), [1, 2], (0,))
    before = rollout.steps[0].log_prob(networks(policy.pipeline))
    with torch.no_grad():
        policy.pipeline.transformer.proj_out.weight.add_(0.1)
    assert (rollout.steps[0].log_prob(networks(policy.pipeline)) < before).all()


def test_a_forgotten_scale_of_guidance_is_another_prediction():
    policy = policy_of("StableDiffusion3Pipeline")
    rollout = StochasticSampler(policy).sample("a red star", (), [1, 2], (0,))
    step = rollout.steps[0]
    assert step.mixture.weights == (-2.0, 3.0)
    forgotten = replace(step, mixture=step.mixture._replace(weights=(0.0, 1.0)))
    parts = networks(policy.pipeline)
    guided = step.prediction(parts)
    assert (forgotten.prediction(parts) - guided).abs().max() > 1e-3 * guided.abs().max()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableDiffusionPAGPipeline", "repeated, step 0 predicts something else"),
        ("MochiPipeline", "inverts its sigmas"),
        ("SanaSprintPipeline", "preconditions its network"),
        ("SkyReelsV2DiffusionForcingPipeline", "does not call the step of its scheduler"),
        ("LTX2Pipeline", "a scale of guidance do not explain"),
    ],
)
def test_steps_that_cannot_be_repeated_are_refused(name, reason):
    policy = policy_of(name, steps=2)
    own = policy.pipeline.scheduler
    with pytest.raises(ModelError, match=reason):
        StochasticSampler(policy).sample("a red star", (), [1, 2], (0,))
    assert policy.pipeline.scheduler is own
    assert "step" not in vars(own)
    assert all("forward" not in vars(part) for part in networks(policy.pipeline).values())


def test_a_scheduler_of_several_calls_a_step_is_replaced_while_it_samples():
    policy = policy_of("StableDiffusionPipeline epsilon PNDM")
    own = policy.pipeline.scheduler
    rollout = StochasticSampler(policy).sample("a red star", (), [1, 2], (0, 1))
    assert len(rollout.steps) == 2
    assert policy.pipeline.scheduler is own
