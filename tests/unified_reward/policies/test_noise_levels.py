"""Noise levels, prediction types and replacements of all schedulers of diffusers."""

import inspect
import math

import diffusers
import pytest
import torch

from unified_reward.core.errors import ModelError
from unified_reward.policies.noise_levels import (
    _REPLACEMENTS,
    Levels,
    check_scheduler,
    prediction_type,
    step_levels,
    stochastic_scheduler,
)


pytestmark = pytest.mark.numeric


def levels(scheduler):
    """Noise levels before each of the N steps, and after the last."""
    before, after = step_levels(scheduler)
    return Levels(*(torch.cat([a, b[-1:]]) for a, b in zip(before, after, strict=True)))


FIRST_PARTY = {
    name.removesuffix("Scheduler"): kind
    for name, kind in inspect.getmembers(diffusers.schedulers, inspect.isclass)
    if name.endswith("Scheduler")
}
ARGUMENTS = {
    "Amused": {"mask_token_id": 1},
    "RFD4Proteina": {"schedule_mode": "power", "noise_mode": "1/t", "tsr_k": 1, "tsr_sigma": 1},
    "VQDiffusion": {"num_vec_classes": 8},
}
"""Arguments without a default."""
SUPPORTED = {
    *("DDIM", "DDIMParallel", "CogVideoXDDIM"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"),
    *("EulerDiscrete", "FlowMatchEulerDiscrete"),
}
REFUSED = {
    "Amused": "steps with other arguments|levels are unknown",
    "BlockRefinement": "levels are unknown",
    "CMStochasticIterative": "preconditions its network",
    "ConsistencyDecoder": "preconditions its network",
    "CosineDPMSolverMultistep": "preconditions its network",
    "DDIMInverse": "does not denoise in every step",
    "DDPMWuerstchen": "levels are unknown",
    "DPMSolverMultistepInverse": "does not denoise in every step",
    "DiscreteDDIM": "levels are unknown",
    "EDMDPMSolverMultistep": "preconditions its network",
    "EDMEuler": "preconditions its network",
    "EntropyBound": "levels are unknown",
    "FlowMapEulerDiscrete": "predicts the mean velocity over a step",
    "FlowMatchHeunDiscrete": "calls the network several times a step",
    "Helios": "denoises in stages of different sizes",
    "HeliosDMD": "denoises in stages of different sizes",
    "IPNDM": "combines past predictions that cannot be restarted",
    "KarrasVe": "calls the network several times a step",
    "MiniMaxH3": "adds noise by the timestep",
    "Piflow": "levels are unknown",
    "RFD4Proteina": "levels are unknown",
    "SASolver": "draws noise in its own steps",
    "SCM": "preconditions its network",
    "ScoreSdeVe": "has no step",
    "ScoreSdeVp": "has no step",
    "VQDiffusion": "steps with other arguments|levels are unknown",
}
RANDOM = {"FlowMatchLCM", "LCM", "RePaint", "TCD", "UnCLIP"}
"""Refused at their first step: tests/unified_reward/policies/test_stochastic_steps.py."""


def build(name, **options):
    kind = FIRST_PARTY[name]
    if "clip_sample" in inspect.signature(kind.__init__).parameters:
        options = {"clip_sample": False, **options}
    try:
        return kind(**ARGUMENTS.get(name, {}), **options)
    except ImportError as error:
        pytest.skip(str(error).strip()[:60])


def test_every_scheduler_of_diffusers_is_supported_replaced_or_refused():
    assert {*FIRST_PARTY} == SUPPORTED | {*_REPLACEMENTS} | {*REFUSED} | RANDOM


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_scheduler_is_refused_with_the_reason(name):
    scheduler = build(name)
    with pytest.raises(ModelError, match=REFUSED[name]):  # noqa: PT012
        check_scheduler(scheduler)
        scheduler.set_timesteps(50)
        levels(scheduler)


@pytest.mark.parametrize("name", sorted(_REPLACEMENTS))
def test_a_replacement_is_counted_as_compatible_and_is_supported(name):
    scheduler = build(name)
    found = stochastic_scheduler(scheduler)
    assert type(found).__name__ == f"{_REPLACEMENTS[name]}Scheduler"
    arguments, ours = (
        {*inspect.signature(type(one).__init__).parameters} for one in (scheduler, found)
    )
    assert type(found) in scheduler.compatibles or arguments == ours
    shared = {key for key in arguments & ours if key != "self"}
    assert {key: found.config[key] for key in shared} == {
        key: scheduler.config[key] for key in shared
    }


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_a_supported_scheduler_is_not_replaced(name):
    scheduler = build(name)
    assert stochastic_scheduler(scheduler) is scheduler


def test_a_replacement_clips_only_where_the_scheduler_did():
    assert not stochastic_scheduler(diffusers.PNDMScheduler()).config.clip_sample
    with pytest.raises(ModelError, match=r"DDIMScheduler clips the clean latents \(clip_sample\)"):
        stochastic_scheduler(diffusers.DDPMScheduler(clip_sample=True))


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        (diffusers.DDIMScheduler(), r"clips the clean latents \(clip_sample\)"),
        (diffusers.UniPCMultistepScheduler(thresholding=True), r"clean latents \(thresholding\)"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "inverts its sigmas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "draws noise"),
        (diffusers.EulerDiscreteScheduler(prediction_type="sample"), "that predicts 'sample'"),
    ],
)
def test_an_option_is_refused_with_the_reason(scheduler, reason):
    with pytest.raises(ModelError, match=reason):
        check_scheduler(scheduler)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "FlowMatchEulerDiscrete"])
def test_levels_need_timesteps(name):
    with pytest.raises(ModelError, match="call set_timesteps first"):
        levels(build(name))


def test_repeated_timesteps_are_refused():
    scheduler = build("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction")
    scheduler.set_timesteps(1000)
    scheduler.timesteps[1] = scheduler.timesteps[0]
    with pytest.raises(ModelError, match="repeats timesteps"):
        levels(scheduler)


def test_levels_of_ddim_are_those_of_its_training_timesteps():
    """Signal power 0.9 ** (t + 1): timesteps 8, 6, 4, 2, 0 with the stride 2."""
    scheduler = build("DDIM", num_train_timesteps=10, trained_betas=[0.1] * 10)
    scheduler.set_timesteps(5)
    alpha, sigma = levels(scheduler)
    powers = [0.9**n for n in (9, 7, 5, 3, 1)] + [1]
    assert alpha.tolist() == pytest.approx([math.sqrt(p) for p in powers], rel=1e-6)
    assert sigma.tolist() == pytest.approx([math.sqrt(1 - p) for p in powers], rel=1e-6)
    assert (alpha.dtype, sigma.dtype) == (torch.float64, torch.float64)


def test_the_last_level_of_ddim_may_hold_noise():
    scheduler = build(
        "DDIM", num_train_timesteps=10, trained_betas=[0.1] * 10, set_alpha_to_one=False
    )
    scheduler.set_timesteps(5)
    assert levels(scheduler).at(-1) == pytest.approx((math.sqrt(0.9), math.sqrt(0.1)), rel=1e-6)


def test_ddim_with_a_stride_that_leaves_its_timesteps_follows_its_stride():
    """Timesteps 9, 4 and 0 (linspace) have the stride 3, so the first step ends at timestep 6."""
    scheduler = build(
        "DDIM", num_train_timesteps=10, trained_betas=[0.1] * 10, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [9, 4, 0]
    before, after = step_levels(scheduler)
    assert (before.alpha**2).tolist() == pytest.approx([0.9**10, 0.9**5, 0.9], rel=1e-6)
    assert (after.alpha**2).tolist() == pytest.approx([0.9**7, 0.9**2, 1], rel=1e-6)


def test_levels_of_euler_have_a_factor_of_one_and_those_of_solvers_preserve_variance():
    options = {"num_train_timesteps": 10, "trained_betas": [0.1] * 10}
    euler, solver = build("EulerDiscrete", **options), build("DPMSolverMultistep", **options)
    euler.set_timesteps(timesteps=[9, 4])
    solver.set_timesteps(timesteps=[9, 4])
    ratios = [math.sqrt(1 / 0.9**n - 1) for n in (10, 5)] + [0]
    assert levels(euler).alpha.tolist() == [1, 1, 1]
    assert levels(euler).sigma.tolist() == pytest.approx(ratios, rel=1e-5)
    alpha, sigma = levels(solver)
    assert (sigma / alpha).tolist() == pytest.approx(ratios, rel=1e-5)
    assert (alpha**2 + sigma**2).tolist() == pytest.approx([1, 1, 1], rel=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.HeliosScheduler(stages=1, stage_range=[0, 1]),
        diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ],
)
def test_levels_of_a_flow_sum_to_one(scheduler):
    scheduler.set_timesteps(4)
    alpha, sigma = levels(scheduler)
    assert prediction_type(scheduler) == "flow"
    assert (alpha + sigma).tolist() == pytest.approx([1] * 5, rel=1e-6)
    assert sigma[:-1].tolist() == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-6)
    assert sigma[-1] <= 1e-8, "Helios ends at that"


def test_levels_do_not_depend_on_the_progress_of_the_scheduler():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    before = levels(scheduler).sigma.tolist()
    scheduler.set_begin_index(0)
    scheduler.step(torch.ones(1, 2), scheduler.timesteps[0], torch.ones(1, 2))
    assert levels(scheduler).sigma.tolist() == before
    assert scheduler.step_index == 1


def test_a_key_that_the_class_does_not_read_is_not_its_prediction_type():
    euler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    assert prediction_type(euler) == "v_prediction"
    flow = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        {**euler.config}, trust_remote_code=False
    )
    assert prediction_type(flow) == "flow"
