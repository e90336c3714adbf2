"""Recorded stochastic steps against the own steps of diffusers' schedulers."""

import copy
import inspect
import math

import diffusers
import pytest
import torch

from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.policies.noise_levels import prediction_type, step_levels
from unified_reward.policies.step_rules import DETERMINISTIC, log_prob, step
from unified_reward.policies.stochastic_steps import record_steps


pytestmark = pytest.mark.numeric

STEPS = 8
VP = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
V = {**VP, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SINGLE = {
    "DDIM": lambda: diffusers.DDIMScheduler(**VP, clip_sample=False, steps_offset=1),
    "DDIM v": lambda: diffusers.DDIMScheduler(
        **V, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=False
    ),
    "DDIM linspace": lambda: diffusers.DDIMScheduler(
        **VP, clip_sample=False, timestep_spacing="linspace"
    ),
    "DDIM parallel": lambda: diffusers.DDIMParallelScheduler(**VP, clip_sample=False),
    "CogVideoX": lambda: diffusers.CogVideoXDDIMScheduler(
        **V, clip_sample=False, snr_shift_scale=3.0, timestep_spacing="trailing"
    ),
    "Euler": lambda: diffusers.EulerDiscreteScheduler(**VP),
    "Euler v Karras": lambda: diffusers.EulerDiscreteScheduler(
        **{**VP, "prediction_type": "v_prediction"},
        use_karras_sigmas=True,
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=80.0,
    ),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow Karras": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "DPM++ first order": lambda: diffusers.DPMSolverMultistepScheduler(**VP, solver_order=1),
    "DPM first order": lambda: diffusers.DPMSolverMultistepScheduler(
        **VP, solver_order=1, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
    ),
}
MULTI = {
    "DPM++": lambda: diffusers.DPMSolverMultistepScheduler(**VP, use_karras_sigmas=True),
    "DPM++ third order": lambda: diffusers.DPMSolverMultistepScheduler(**VP, solver_order=3),
    "DPM++ flow": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW),
    "DPM++ single": lambda: diffusers.DPMSolverSinglestepScheduler(**VP),
    "DPM++ v": lambda: diffusers.DPMSolverMultistepScheduler(**VP, prediction_type="v_prediction"),
    "DEIS": lambda: diffusers.DEISMultistepScheduler(**VP),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**VP),
    "UniPC third order": lambda: diffusers.UniPCMultistepScheduler(**VP, solver_order=3),
    "UniPC noise": lambda: diffusers.UniPCMultistepScheduler(
        **VP, predict_x0=False, final_sigmas_type="sigma_min"
    ),
    "UniPC flow": lambda: diffusers.UniPCMultistepScheduler(**FLOW),
    "Helios": lambda: diffusers.HeliosScheduler(stages=1, stage_range=[0, 1]),
}
ALL = {**SINGLE, **MULTI}


def network(x, timestep):
    return torch.tanh(1.7 * x + 0.001 * float(timestep)) + 0.3 * x.roll(1, -1)


def start(batch=2):
    noise = [torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(batch)]
    return torch.stack(noise)


def generators(batch=2, seed=10):
    return [torch.Generator().manual_seed(seed + i) for i in range(batch)]


def sample(scheduler, x=None, steps=STEPS, **options):
    """Sampling loop of a pipeline; the latents before each step and after the last."""
    scheduler.set_timesteps(steps)
    path = [(start() if x is None else x) * float(getattr(scheduler, "init_noise_sigma", 1.0))]
    for timestep in scheduler.timesteps:
        scaled = path[-1] / (1 + path[-1].square().mean()).sqrt()
        prediction = network(scaled, timestep)
        path.append(scheduler.step(prediction, timestep, path[-1], **options, return_dict=False)[0])
    return path


def state(scheduler):
    return {key: str(value) for key, value in vars(scheduler).items() if key != "step"}


def distance(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("name", ALL)
def test_an_empty_window_is_the_plain_sampler_bit_for_bit(name):
    plain = sample(ALL[name]())
    scheduler = ALL[name]()
    with record_steps(scheduler, (), generators()) as steps:
        recorded = sample(scheduler)
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    assert not steps


@pytest.mark.parametrize("name", ALL)
def test_a_window_leaves_the_steps_before_it_bit_for_bit(name):
    plain = sample(ALL[name]())
    scheduler = ALL[name]()
    with record_steps(scheduler, {2, 3}, generators()) as steps:
        recorded = sample(scheduler)
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], recorded[:3], strict=True))
    assert not torch.equal(plain[3], recorded[3])
    assert [each.index for each in steps] == [2, 3]
    for taken in steps:
        assert taken.timestep == scheduler.timesteps[taken.index]
        assert torch.equal(taken.sample, recorded[taken.index])
        assert torch.equal(taken.next_sample, recorded[taken.index + 1])
        noise = (taken.next_sample - taken.mean) / taken.std
        assert noise.std().item() == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("name", ALL)
def test_the_comparison_of_the_first_step_leaves_no_trace(name):
    plain, scheduler = ALL[name](), ALL[name]()
    with record_steps(scheduler, {STEPS - 2}, generators()):
        for each in (plain, scheduler):
            each.set_timesteps(STEPS)
            for timestep in each.timesteps[:3]:
                each.step(network(start(), timestep), timestep, start())
    assert state(scheduler) == state(plain)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("rule", ["ddim", "cps"])
def test_without_noise_all_steps_are_those_of_the_scheduler(name, rule):
    plain = sample(SINGLE[name]())
    scheduler = SINGLE[name]()
    with record_steps(scheduler, range(STEPS), generators(), rule, 0.0) as steps:
        recorded = sample(scheduler)
    assert [each.index for each in steps] == [*range(STEPS - 1)], "the last step is not recorded"
    assert all(each.std == 0 for each in steps)
    assert max(distance(a, b) for a, b in zip(recorded[1:], plain[1:], strict=True)) < 1e-4


@pytest.mark.parametrize("name", MULTI)
def test_without_noise_solvers_take_first_order_steps(name):
    """The reference is float64 and knows the scheduler by its levels only."""
    scheduler = MULTI[name]()
    with record_steps(scheduler, range(STEPS), generators(), strength=0.0):
        recorded = sample(scheduler)
    kind, (before, after) = prediction_type(scheduler), step_levels(scheduler)
    x = recorded[0].double()
    for i, timestep in enumerate(scheduler.timesteps[:-1]):
        prediction = network(x / (1 + x.square().mean()).sqrt(), timestep)
        x = step(DETERMINISTIC, kind, x, prediction, before.at(i), after.at(i)).mean
        assert distance(recorded[i + 1].double(), x) < 1e-4


@pytest.mark.parametrize("name", ALL)
def test_a_solver_starts_anew_after_a_stochastic_step(name):
    """The rest equals a scheduler that begins there, as in image-to-image."""
    if name == "Helios":
        pytest.skip("cannot begin in the middle")
    scheduler, fresh = ALL[name](), ALL[name]()
    with record_steps(scheduler, {2}, generators()) as steps:
        recorded = sample(scheduler)
    fresh.set_timesteps(STEPS)
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(3)
    x = steps[0].next_sample
    for i, timestep in enumerate(fresh.timesteps[3:], 3):
        assert torch.equal(x, recorded[i])
        prediction = network(x / (1 + x.square().mean()).sqrt(), timestep)
        x = fresh.step(prediction, timestep, x).prev_sample
    assert torch.equal(x, recorded[-1])
    if hasattr(fresh, "step_index"):
        assert scheduler.step_index == fresh.step_index == STEPS


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_is_the_stochastic_step_of_diffusers(eta):
    scheduler, reference = SINGLE["DDIM"](), SINGLE["DDIM"]()
    with record_steps(scheduler, {1, 4}, generators(), "ddim", eta) as steps:
        sample(scheduler)
    reference.set_timesteps(STEPS)
    for taken, source in zip(steps, [generators()] * 2, strict=True):
        noise = torch.stack([torch.randn(3, 4, 4, generator=each) for each in source])
        wanted = reference.step(
            taken.prediction, taken.timestep, taken.sample, eta=eta, variance_noise=noise
        ).prev_sample
        assert distance(taken.next_sample, wanted) < 1e-4


def test_ddim_is_the_ancestral_step_of_euler():
    scheduler, ancestral = SINGLE["Euler"](), diffusers.EulerAncestralDiscreteScheduler(**VP)
    with record_steps(scheduler, {0}, generators(1)) as steps:
        sample(scheduler, start(1))
    ancestral.set_timesteps(STEPS)
    (found,) = steps
    wanted = ancestral.step(
        found.prediction, ancestral.timesteps[0], found.sample, generator=generators(1)[0]
    ).prev_sample
    assert distance(found.next_sample, wanted) < 1e-4


@pytest.mark.parametrize(("name", "rule"), [("DDIM", "ddim"), ("UniPC", "cps"), ("flow", "flow")])
def test_a_replay_has_the_ratio_one(name, rule):
    scheduler = ALL[name]()
    with record_steps(scheduler, {0, 1, 2}, generators(), rule) as steps:
        sample(scheduler)
    for taken in steps:
        old = log_prob(taken.next_sample, taken.mean, taken.std)
        scaled = taken.sample / (1 + taken.sample.square().mean()).sqrt()
        new = log_prob(taken.next_sample, *taken.transition(network(scaled, taken.timestep)))
        assert ((new - old).exp() - 1).abs().max() == 0
        moved = log_prob(taken.next_sample, *taken.transition(taken.prediction + 0.5))
        assert (moved - old).abs().min() > 0
        wanted = torch.distributions.Normal(taken.mean.double(), taken.std)
        wanted = wanted.log_prob(taken.next_sample.double()).flatten(1).mean(1)
        assert old.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["DDIM", "UniPC flow"])
def test_a_sample_does_not_depend_on_its_batch(name):
    def last(x, sources):
        scheduler = ALL[name]()
        scheduler.set_timesteps(STEPS)
        with record_steps(scheduler, {1, 3}, sources):
            for timestep in scheduler.timesteps:
                x = scheduler.step(network(x, timestep), timestep, x).prev_sample
        return x

    together = last(start(3), generators(3))
    alone = last(start(3)[1:2], generators(3)[1:2])
    assert torch.equal(together[1:2], alone)


def test_the_type_of_the_result_and_its_data_type_are_the_schedulers():
    for dtype in (torch.float32, torch.bfloat16):
        scheduler = SINGLE["DDIM"]()
        scheduler.set_timesteps(STEPS)
        x, timestep = start().to(dtype), scheduler.timesteps[0]
        own = scheduler.step(x, timestep, x)
        with record_steps(scheduler, {0}, generators()) as steps:
            output = scheduler.step(x, timestep, x)
            values = scheduler.step(x, timestep, x, return_dict=False)
        assert type(output) is type(own)
        assert output.prev_sample.dtype == own.prev_sample.dtype == dtype
        assert torch.equal(output.prev_sample, output[0])
        assert torch.equal(output.pred_original_sample, own.pred_original_sample)
        assert (type(values), len(values)) == (tuple, 2)
        assert torch.equal(values[0], steps[1].next_sample)
        assert steps[0].mean.dtype == torch.float32


def test_the_step_is_restored_and_keeps_its_signature():
    scheduler = SINGLE["DDIM"]()
    signature = inspect.signature(scheduler.step)
    with record_steps(scheduler, {0}, generators()):
        assert inspect.signature(scheduler.step) == signature
    with pytest.raises(RuntimeError, match="within"), record_steps(scheduler, {0}, generators()):
        raise RuntimeError("within")
    assert "step" not in vars(scheduler)
    scheduler.step = observed = lambda model_output, timestep, sample: None
    with record_steps(scheduler, {0}, generators()):
        assert scheduler.step is not observed
    assert scheduler.step is observed


def test_a_deep_copy_takes_its_own_steps():
    scheduler = SINGLE["flow"]()
    with record_steps(scheduler, {0, 1}, generators()) as steps:
        copied = copy.deepcopy(scheduler)
        path = sample(copied)
        assert not steps
        sample(scheduler)
    assert [each.index for each in steps] == [0, 1]
    assert all(torch.equal(a, b) for a, b in zip(path, sample(SINGLE["flow"]()), strict=True))


def test_two_runs_are_recorded_in_order():
    scheduler = SINGLE["DDIM"]()
    with record_steps(scheduler, {0, 2}, generators()) as steps:
        sample(scheduler)
        sample(scheduler, steps=4)
    assert [each.index for each in steps] == [0, 2, 0, 2]
    assert steps[0].next_level != steps[2].next_level
    assert not torch.equal(steps[0].next_sample, steps[2].next_sample)


def test_the_last_step_is_deterministic_also_where_noise_is_left():
    scheduler = SINGLE["DDIM v"]()
    with record_steps(scheduler, {STEPS - 1}, generators()) as steps:
        path = sample(scheduler)
    assert not steps
    assert step_levels(scheduler)[1].sigma[-1] > 0.005
    assert all(torch.equal(a, b) for a, b in zip(path, sample(SINGLE["DDIM v"]()), strict=True))


@pytest.mark.parametrize("name", ["FlowMatchLCM", "LCM", "TCD", "UnCLIP"])
@pytest.mark.parametrize("window", [{0}, {1}])
def test_a_scheduler_that_draws_noise_is_refused_at_its_first_step(name, window):
    kind = getattr(diffusers, f"{name}Scheduler")
    can_clip = "clip_sample" in inspect.signature(kind.__init__).parameters
    scheduler = kind(**({"clip_sample": False} if can_clip else {}))
    with (
        pytest.raises(ModelError, match=f"{name}Scheduler draws noise in its own steps: step 0 is"),
        record_steps(scheduler, window, generators()),
    ):
        sample(scheduler)


@pytest.mark.parametrize(
    "scheduler",
    [
        SINGLE["DDIM"](),
        diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        diffusers.EulerAncestralDiscreteScheduler(),
        diffusers.DDPMScheduler(clip_sample=False),
    ],
)
def test_own_noise_is_refused(scheduler):
    options = {"eta": 1.0} if isinstance(scheduler, diffusers.DDIMScheduler) else {}
    with (
        pytest.raises(ModelError, match="draws noise in its own steps: step 0 is"),
        record_steps(scheduler, {2}, generators()),
    ):
        sample(scheduler, **options)


def test_a_timestep_of_each_token_is_refused():
    scheduler = SINGLE["flow"]()
    scheduler.set_timesteps(STEPS)
    tokens, timestep = torch.ones(2, 3, 4), scheduler.timesteps[0]
    options = {"per_token_timesteps": torch.tensor([[0.0, 500.0, 1000.0]] * 2)}
    with (
        pytest.raises(ModelError, match=r"steps differently: step 0 is .* \(of norm .* of flow"),
        record_steps(scheduler, {1}, generators()),
    ):
        scheduler.step(tokens, timestep, tokens, **options)


def test_a_sign_of_its_own_is_refused():
    class Reversed(diffusers.FlowMatchEulerDiscreteScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return super().step(-model_output, timestep, sample, return_dict=return_dict)

    scheduler = Reversed()
    with (
        pytest.raises(ModelError, match="Reversed steps differently"),
        record_steps(scheduler, {1}, generators()),
    ):
        sample(scheduler)


def test_a_prediction_with_a_variance_is_refused():
    scheduler = SINGLE["DDIM"]()
    scheduler.set_timesteps(4)
    with (
        pytest.raises(ModelError, match=r"prediction \[2, 6, 4, 4\], sample \[2, 3, 4, 4\]"),
        record_steps(scheduler, {1}, generators()),
    ):
        scheduler.step(torch.ones(2, 6, 4, 4), scheduler.timesteps[0], start())


@pytest.mark.parametrize(
    ("window", "sources", "error", "message"),
    [
        ({8}, 2, ConfigError, "the window has 8; steps: 8"),
        ({-1}, 2, ConfigError, "the window has -1; steps: 8"),
        ({0}, 3, ModelError, "3 generators for a batch of 2"),
    ],
)
def test_a_window_or_a_batch_that_does_not_fit_is_refused(window, sources, error, message):
    scheduler = SINGLE["DDIM"]()
    with pytest.raises(error, match=message), record_steps(scheduler, window, generators(sources)):
        sample(scheduler)


def test_an_unknown_timestep_is_refused():
    scheduler = SINGLE["DDIM"]()
    scheduler.set_timesteps(4)
    with (
        pytest.raises(ModelError, match=r"timestep 7.0 is not a timestep of the scheduler"),
        record_steps(scheduler, {1}, generators()),
    ):
        scheduler.step(start(), 7, start())


def test_flow_on_another_scheduler_is_refused_before_sampling():
    with (
        pytest.raises(ModelError, match="the step rule flow needs a flow model"),
        record_steps(SINGLE["DDIM"](), {1}, generators(), "flow"),
    ):
        pass


def test_an_unknown_rule_is_refused():
    with (
        pytest.raises(ConfigError, match="must be one of ddim, flow, cps, not 'sde'"),
        record_steps(SINGLE["DDIM"](), {1}, generators(), "sde"),
    ):
        pass


def test_spread_of_the_noise_over_many_samples():
    """Flow-GRPO from 1 to 0.75 with a = 0.5 has the standard deviation 0.5 (by hand)."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5])
    x = torch.zeros(4, 10_000)
    with record_steps(scheduler, {0}, generators(4), "flow", 0.5) as steps:
        after = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
    assert steps[0].std == pytest.approx(0.5, rel=1e-6)
    assert after.std().item() == pytest.approx(0.5, rel=4 / math.sqrt(2 * after.numel()))
