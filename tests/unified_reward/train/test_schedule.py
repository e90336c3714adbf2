"""Noise levels of a schedule are those of the scheduler that it is read from."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SCMScheduler,
    UniPCMultistepScheduler,
)

from unified_reward.core.errors import ModelError
from unified_reward.train.schedule import check_schedule, read_schedule


pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "kind",
    [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler],
)
def test_the_noise_is_that_of_the_scheduler(kind, prediction):
    scheduler = kind(beta_schedule="scaled_linear", prediction_type=prediction)
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == prediction
    scheduler.set_timesteps(1000)
    clean, noise = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    for place in (0, 1, 400, 998, 999):
        result = scheduler.timesteps[scheduler.timesteps == schedule.timestep[place]]
        noisy = scheduler.add_noise(clean, noise, result)
        scheduler._step_index = None
        seen = scheduler.scale_model_input(noisy, result[0])
        ours = schedule.alpha[place] * clean + schedule.sigma[place] * noise
        assert torch.allclose(ours.float(), seen, atol=2e-6)


def test_noise_without_signal_at_the_end_is_kept():
    schedule = read_schedule(DDIMScheduler(rescale_betas_zero_snr=True))
    assert (schedule.alpha[-1], schedule.sigma[-1]) == (0, 1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_path_of_a_flow_is_that_of_the_scheduler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == "flow"
    assert torch.allclose(schedule.sigma.float().flip(0), scheduler.sigmas, atol=1e-6)
    assert torch.allclose(schedule.timestep.flip(0), scheduler.timesteps, atol=1e-3)
    assert torch.equal(schedule.alpha, 1 - schedule.sigma)
    clean, noise = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    seen = scheduler.scale_noise(clean, scheduler.timesteps[300:301], noise)
    ours = schedule.alpha[-301] * clean + schedule.sigma[-301] * noise
    assert torch.allclose(ours.float(), seen, atol=1e-6)


def test_half_the_steps_of_a_flow_shifted_by_three_have_three_quarters_of_noise():
    """3 / 2 / (1 + 2 / 2) = 3 / 4, passed to the network as 750."""
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert float(schedule.sigma[499]) == pytest.approx(0.75)
    assert float(schedule.timestep[499]) == pytest.approx(750)


def test_a_shift_that_depends_on_the_size_is_left_out():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert torch.allclose(read_schedule(scheduler).sigma.float().flip(0), scheduler.sigmas)


def test_the_flow_of_another_solver_is_the_same_path():
    """UniPC uses other points of it, and passes whole timesteps, cut off, to the network."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == "flow"
    scheduler.set_timesteps(8)
    for result, sigma in zip(scheduler.timesteps[1:], scheduler.sigmas[1:-1], strict=True):
        place = (schedule.sigma - sigma).abs().argmin()
        assert float(schedule.sigma[place]) == pytest.approx(float(sigma), abs=0.0015)
        assert float(schedule.timestep[place]) == pytest.approx(float(result), abs=2.5)


def test_the_four_timesteps_of_sdxl_turbo_are_picked():
    schedule = read_schedule(EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))
    places = schedule.nearest_steps((999, 249.0, 749, 499, 999))
    assert places.tolist() == [249, 499, 749, 999]
    assert schedule.timestep[places].tolist() == [249, 499, 749, 999]


def test_timesteps_of_a_flow_are_the_nearest_there_are():
    """Shifted by 3, step 333 of 1000 has sigma 3 * 0.333 / 1.666 = 0.59964, step 334 0.60072."""
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert schedule.nearest_steps((600,)).tolist() == [332]
    assert schedule.nearest_steps((600.5,)).tolist() == [333]


def test_what_predicts_pictures_themselves_is_refused():
    with pytest.raises(ModelError, match="sample cannot be aligned; epsilon, v_prediction and"):
        read_schedule(DDIMScheduler(prediction_type="sample"))


def test_noise_of_an_unknown_form_is_refused():
    with pytest.raises(ModelError, match="a EDMEulerScheduler cannot be aligned; DDPM, DDIM"):
        read_schedule(EDMEulerScheduler())


def test_noise_of_a_consistency_model_is_refused():
    with pytest.raises(ModelError, match="trigflow cannot be aligned; epsilon, v_prediction"):
        read_schedule(SCMScheduler())


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_latents_of_another_scale_than_in_training_are_refused(kind):
    scheduler = kind()
    scheduler.set_timesteps(3)
    sigmas = scheduler.sigmas[:-1].double()
    scales = (1 + sigmas**2) ** -0.5 if kind is EulerDiscreteScheduler else torch.ones(3)
    schedule = read_schedule(scheduler)
    check_schedule(schedule, scheduler, scales.tolist())
    with pytest.raises(ModelError, match="the network gets noisy latents scaled by"):
        check_schedule(schedule, scheduler, (scales / 2).tolist())
