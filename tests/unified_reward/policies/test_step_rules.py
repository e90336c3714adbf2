"""Means, standard deviations and densities of stochastic steps, by hand and in closed form."""

import itertools
import math

import pytest
import torch

from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.policies.step_rules import (
    DETERMINISTIC,
    Level,
    StepRule,
    log_prob,
    step,
    to_clean_and_noise,
)


pytestmark = pytest.mark.numeric

MEAN, STD = 1.3, 0.5
"""Gaussian data in one dimension."""


def flow_level(sigma):
    return Level(1 - sigma, sigma)


def shifted(steps):
    even = [1 - i / steps for i in range(steps)]
    return [flow_level(3 * u / (1 + 2 * u)) for u in even] + [flow_level(0.0)]


def velocity(x, level):
    """Velocity of the flow, ``E[e - x_0 | x]``, by the regression of jointly normal variables."""
    variance = (level.alpha * STD) ** 2 + level.sigma**2
    slope = (level.sigma - level.alpha * STD**2) / variance
    return -MEAN + slope * (x - level.alpha * MEAN)


def result(levels, rule, window=None):
    """Mean and standard deviation of the samples that the steps make of standard noise.

    Each step is affine in x for this velocity, so two values of x give its slope and intercept.
    """
    mean, variance = 0.0, 1.0
    for i, (level, after) in enumerate(itertools.pairwise(levels)):
        used = rule if window is None or i in window else DETERMINISTIC
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        (intercept, end), std = step(used, "flow", x, velocity(x, level), level, after)
        slope = (end - intercept).item()
        mean = slope * mean + intercept.item()
        variance = slope**2 * variance + std**2
    return mean, math.sqrt(variance)


@pytest.mark.parametrize(
    ("rule", "stds"),
    [
        (DETERMINISTIC, {10: 0.370, 40: 0.467, 160: 0.490}),
        (StepRule("ddim", 1.0), {10: 0.330, 40: 0.432, 160: 0.479}),
        (StepRule("flow", 0.7), {40: 0.480, 160: 0.496}),
        (StepRule("cps", 0.8), {10: 0.315, 40: 0.371, 160: 0.391}),
    ],
)
def test_samples_have_the_mean_of_the_data_and_the_measured_spread(rule, stds):
    """The standard deviations were measured on 200,000 samples, each to about 0.001."""
    for steps, wanted in stds.items():
        mean, std = result(shifted(steps), rule)
        assert mean == pytest.approx(MEAN, rel=1e-9)
        assert std == pytest.approx(wanted, abs=0.003)


def test_cps_in_a_window_keeps_the_spread_and_everywhere_loses_it():
    levels = shifted(40)
    _, plain = result(levels, DETERMINISTIC)
    assert result(levels, StepRule("cps", 0.8), {1, 2})[1] == pytest.approx(plain, rel=1e-3)
    assert result(levels, StepRule("cps", 0.8))[1] < 0.85 * plain


@pytest.mark.parametrize("rule", [StepRule("ddim", 1.0), StepRule("flow", 0.7)])
def test_the_spread_converges_to_that_of_the_data(rule):
    coarse, fine = (result(shifted(steps), rule)[1] for steps in (100, 2000))
    assert fine == pytest.approx(STD, rel=4e-3)
    assert coarse < 0.99 * STD


@pytest.mark.parametrize(
    ("rule", "mean", "std"),
    [
        # x_0 = 2 - 0.5 = 1.5, e = 2 + 0.5 = 2.5.
        (DETERMINISTIC, 0.75 * 1.5 + 0.25 * 2.5, 0),
        # alpha sigma_n / (alpha_n sigma) = 1 / 3, so the variance is 1/16 * 8/9 = 1/18.
        (StepRule("ddim", 1.0), 1.125 + 2.5 / 12, math.sqrt(1 / 18)),
        (StepRule("ddim", 0.5), 1.125 + 2.5 * math.sqrt(1 / 16 - 1 / 72), math.sqrt(1 / 72)),
        # s^2 = 1/4, dt = -1/4: 2 (1 - 1/16) - (1 + 1/8) / 4.
        (StepRule("flow", 0.5), 1.875 - 1.125 / 4, 0.25),
        # sin(30 degrees) = 1/2, so the variance is 1/64 of the 1/16.
        (StepRule("cps", 1 / 3), 1.125 + 2.5 * math.sqrt(3 / 64), 0.125),
        (StepRule("flow", 0.0), 1.75, 0),
        (StepRule("cps", 0.0), 1.75, 0),
    ],
)
def test_a_step_of_a_flow_from_a_half_to_a_quarter(rule, mean, std):
    x, v = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    found = step(rule, "flow", x, v, flow_level(0.5), flow_level(0.25))
    assert found.mean.item() == pytest.approx(mean, rel=1e-6)
    assert found.std == pytest.approx(std, rel=1e-12)


def test_flow_from_pure_noise_takes_the_second_level():
    """s^2 = 0.25 / (1 - 0.75) = 1: mean 2 (1 - 1/8) - 1/4."""
    x, v = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    found = step(StepRule("flow", 0.5), "flow", x, v, flow_level(1.0), flow_level(0.75))
    assert found.mean.item() == pytest.approx(1.5, rel=1e-6)
    assert found.std == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    "rule", [StepRule("ddim", 1.0), StepRule("flow", 0.7), StepRule("cps", 1.0)]
)
@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_the_last_step_has_no_noise_and_ends_at_the_clean_latents(rule, sigma):
    x, v = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    found = step(rule, "flow", x, v, flow_level(sigma), flow_level(0.0))
    assert (found.mean.item(), found.std) == (pytest.approx(2 - sigma, rel=1e-6), 0)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.6, 0.5])
def test_clean_latents_and_noise_do_not_depend_on_the_coordinates(scale):
    """At alpha 0.6 and sigma 0.8, x_0 = 3 and e = -2 mix to 0.2."""
    x = scale * torch.tensor([[0.6 * 3 - 0.8 * 2]], dtype=torch.float64)
    predictions = {"epsilon": -2.0, "v_prediction": 0.6 * -2 - 0.8 * 3, "flow": -2.0 - 3}
    for kind, value in predictions.items():
        prediction = torch.tensor([[value]], dtype=torch.float64)
        found = to_clean_and_noise(kind, x, prediction, 0.6 * scale, 0.8 * scale)
        assert [one.item() for one in found] == pytest.approx([3, -2], rel=1e-12)


@pytest.mark.parametrize(
    "rule", [StepRule("ddim", 0.3), StepRule("ddim", 1.0), StepRule("cps", 0.8)]
)
@pytest.mark.parametrize("pair", [((0.0, 1.0), (0.6, 0.8)), ((1.0, 14.6), (1.0, 2.0))])
def test_noise_of_a_step_replaces_noise_of_the_latents(rule, pair):
    """With x_0 = 0 and e = 1, mean squared plus variance is the variance of the next level."""
    level, after = (Level(*each) for each in pair)
    x = torch.tensor([[level.sigma]], dtype=torch.float64)
    v = torch.tensor([[level.alpha / math.hypot(*level)]], dtype=torch.float64)
    mean, std = step(rule, "v_prediction", x, v, level, after)
    assert std > 0
    assert mean.item() ** 2 + std**2 == pytest.approx(after.sigma**2, rel=1e-12)


def test_half_precision_is_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(2, 8, generator=generator).bfloat16() for _ in range(2))
    levels = flow_level(0.9), flow_level(0.8)
    half = step(StepRule("flow", 0.7), "flow", x, v, *levels)
    assert half.mean.dtype == torch.float32
    assert torch.equal(half.mean, step(StepRule("flow", 0.7), "flow", x.float(), v, *levels).mean)


def test_log_density_is_that_of_torch_averaged_over_the_elements():
    generator = torch.Generator().manual_seed(0)
    mean, noise = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    for std in (0.01, 0.3, 5.0):
        x = mean + std * noise
        wanted = torch.distributions.Normal(mean.double(), std).log_prob(x.double())
        found = log_prob(x, mean, std)
        assert (found.shape, found.dtype) == ((3,), torch.float32)
        assert found.tolist() == pytest.approx(wanted.flatten(1).mean(1).tolist(), rel=1e-4)


def test_log_density_depends_on_the_mean_by_the_score():
    mean = torch.zeros(1, 4, requires_grad=True)
    log_prob(torch.tensor([[0.0, 1.0, 2.0, -4.0]]), mean, 0.5).sum().backward()
    assert mean.grad.tolist()[0] == pytest.approx([0.0, 1.0, 2.0, -4.0], rel=1e-6)


def test_a_deterministic_step_has_no_density():
    with pytest.raises(ValueError, match="a deterministic step"):
        log_prob(torch.zeros(1, 2), torch.zeros(1, 2), 0.0)


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("euler", 1.0, "must be one of ddim, flow, cps, not 'euler'"),
        ("ddim", 1.5, r"of ddim must be in \[0, 1\], not 1.5"),
        ("cps", -0.1, r"of cps must be in \[0, 1\], not -0.1"),
        ("flow", math.inf, r"of flow must be in \[0, inf\], not inf"),
        ("flow", math.nan, r"of flow must be in \[0, inf\], not nan"),
    ],
)
def test_an_unknown_rule_or_strength_is_refused(name, strength, message):
    with pytest.raises(ConfigError, match=message):
        StepRule(name, strength)


@pytest.mark.parametrize(("kind", "level"), [("epsilon", (0.5, 0.5)), ("flow", (0.6, 0.8))])
def test_flow_needs_a_flow(kind, level):
    with pytest.raises(ModelError, match="the step rule flow needs a flow model"):
        step(StepRule("flow", 0.7), kind, *torch.ones(2, 1, 1), Level(*level), Level(0.9, 0.1))
