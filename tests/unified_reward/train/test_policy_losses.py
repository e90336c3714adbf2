"""Losses of reinforcement learning against derivations by hand, published figures, identities."""

import math

import pytest
import torch

from tests.tolerance import near
from unified_reward.policies.step_rules import Level, StepRule, log_prob, step, to_clean_and_noise
from unified_reward.policies.stochastic_steps import RecordedStep
from unified_reward.train.policy_losses import (
    ADVANTAGE_CLIP,
    clean_error_scale,
    clip_advantages,
    guarded_ratio,
    kl,
    nft_loss,
    nft_reward,
    policy_loss,
    ratio,
)


pytestmark = pytest.mark.numeric

STD = 0.05
"""Standard deviation of a step at low noise."""
MOVE = 0.0025
"""Distance that the mean of such a step has moved."""
CLIP = 1e-4


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def ratios(mean, old_mean, noise, std):
    """Both ratios of the step ``old_mean + std noise``, in float32 as in training."""
    mean, old_mean, noise = (each.float() for each in (mean, old_mean, noise))
    taken = old_mean + std * noise
    new, old = log_prob(taken, mean, std), log_prob(taken, old_mean, std)
    return ratio(new, old), guarded_ratio(new, old, mean, old_mean, std)


def test_both_ratios_are_exactly_one_before_the_first_update(random):
    mean, noise = random(4, 3, 5), random(4, 3, 5)
    for each in ratios(mean, mean, noise, STD):
        assert each.tolist() == [1] * 4


def test_the_plain_ratio_is_biased_and_the_guarded_one_is_not(random):
    """The log-ratio is ``mean(e) d / s - d ** 2 / (2 s ** 2)``, with mean(e) about 0 +- 1/256.

    So it is -1.25e-3 +- 2.0e-4: below 0 at 6 standard deviations, and 12 clip ranges away. The
    guarded one is ``mean(e) d``: 0 +- 1e-5, of which 64 samples have a mean of 0 +- 1.2e-6.
    """
    old_mean, noise = random(64, 65_536), random(64, 65_536)
    plain, guarded = ratios(old_mean + MOVE, old_mean, noise, STD)
    assert float(plain.mean() - 1) == pytest.approx(-1.25e-3, abs=1e-4)
    assert (plain < 1).all()
    assert float((plain < 1 - 10 * CLIP).double().mean()) > 0.8
    assert abs(float(guarded.double().mean() - 1)) < 4e-6
    assert 0.3 < float((guarded < 1).double().mean()) < 0.7
    assert float((guarded - 1).abs().max()) < CLIP


def test_the_guarded_exponent_is_the_product_of_noise_and_move(random):
    old_mean, move, noise = random(5, 4, 6), 0.1 * random(5, 4, 6), random(5, 4, 6)
    expected = torch.exp((noise * move).flatten(1).mean(1))
    _, guarded = ratios(old_mean + move, old_mean, noise, 0.3)
    assert guarded.tolist() == near(expected.tolist())


@pytest.mark.parametrize("name", ["plain", "guarded"])
def test_the_gradient_at_ratio_one_is_that_of_reinforce(random, name):
    """REINFORCE: ``-A grad l / B``, with ``grad l = e / (s N)`` for the N elements of a mean."""
    old_mean, noise, std = random(4, 3, 2).float(), random(4, 3, 2).float(), 0.3
    advantage = torch.tensor([1.5, -0.5, 0.0, -4.0])
    mean = old_mean.clone().requires_grad_()
    plain, guarded = ratios(mean, old_mean, noise, std)
    chosen = plain if name == "plain" else guarded
    policy_loss(chosen, advantage, CLIP).loss.backward()
    expected = -advantage.view(4, 1, 1) * noise / (std * 6) / 4
    expected = expected if name == "plain" else std * expected
    assert mean.grad.flatten().tolist() == near(expected.flatten().tolist())


@pytest.mark.parametrize("next_sigma", [0.75, 0.4])
def test_a_guarded_step_teaches_the_velocity_the_same_however_long_it_is(random, next_sigma):
    """The mean moves by ``(1 + s ** 2 (1 - sigma) / (2 sigma)) dt v``, which is ``1.245 dt v``.

    For ``s ** 2 = 0.7 ** 2 sigma / (1 - sigma)``. The exponent's gradient is ``e / N``: dt cancels.
    """
    x, v, noise = (random(3, 4).float() for _ in range(3))
    advantage, rule = torch.tensor([1.0, -2.0, 0.5]), StepRule("flow", 0.7)
    levels = Level(0.2, 0.8), Level(1 - next_sigma, next_sigma)
    old = step(rule, "flow", x, v, *levels)
    record = RecordedStep(
        0, 0, rule, "flow", *levels, x, v, old.mean + old.std * noise, old.mean, old.std
    )
    velocity = v.clone().requires_grad_()
    mean = record.transition(velocity).mean
    new, before = (log_prob(record.next_sample, each, old.std) for each in (mean, old.mean))
    guarded = guarded_ratio(new, before, mean, old.mean, old.std)
    policy_loss(guarded, advantage, CLIP, record.duration).loss.backward()
    expected = advantage.view(3, 1) * noise / 4 / 3 * (1 + 0.7**2 / 2)
    assert velocity.grad.flatten().tolist() == near(expected.flatten().tolist())


@pytest.mark.parametrize("name", ["ddim", "cps"])
def test_only_steps_of_a_flow_have_a_length(name):
    lengths = {
        rule: RecordedStep(
            0, 0, StepRule(rule, 0.5), "flow", Level(0.2, 0.8), Level(0.4, 0.6), *[None] * 5
        )
        for rule in (name, "flow")
    }
    assert lengths["flow"].duration == pytest.approx(0.2)
    assert lengths[name].duration == 1


@pytest.mark.parametrize(
    ("value", "advantage", "loss", "gradient"),
    [
        (1.05, 2.0, -2.1, -2.0),
        (1.2, 2.0, -2.2, 0.0),
        (0.8, 2.0, -1.6, -2.0),
        (1.2, -2.0, 2.4, 2.0),
        (0.8, -2.0, 1.8, 0.0),
        (1.2, 0.0, 0.0, 0.0),
    ],
)
def test_the_clip_silences_only_what_went_far_enough(value, advantage, loss, gradient):
    """At a clip of 0.1: what is better is raised up to 1.1, what is worse lowered down to 0.9."""
    given = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    terms = policy_loss(given, torch.tensor([advantage], dtype=torch.float64), 0.1)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(loss)
    assert given.grad.item() == pytest.approx(gradient)
    assert terms.clipped_share.item() == float(bool(advantage) and not gradient)


def test_the_loss_is_a_mean_and_the_share_counts_samples():
    terms = policy_loss(torch.tensor([1.2, 1.2, 1.0, 0.8]), torch.tensor([1.0, -1, 3, -1]), 0.1)
    assert terms.loss.item() == pytest.approx(-(1.1 - 1.2 + 3 - 0.9) / 4)
    assert terms.clipped_share.item() == 0.5


def test_the_divergence_is_that_of_two_gaussians(random):
    mean, ref_mean, std = random(3, 4, 2), random(3, 4, 2), 0.7
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(ref_mean, std)
    )
    found = kl(mean, ref_mean, std)
    assert found.tolist() == pytest.approx(expected.flatten(1).mean(1).tolist())
    assert kl(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), 0.5).tolist() == [4.0]


def test_only_the_trained_policy_gets_a_gradient(random):
    given = [random(2, 3).requires_grad_() for _ in range(3)]
    kl(given[0], given[1], STD).sum().backward()
    old, new = random(2).requires_grad_(), random(2).requires_grad_()
    (ratio(new, old) + guarded_ratio(new, old, given[0], given[1], STD)).sum().backward()
    terms = nft_loss(*given, random(2).sigmoid())
    terms.loss.backward()
    assert not terms.deviation.requires_grad
    assert given[0].grad is not None
    assert new.grad is not None
    assert given[1].grad is None
    assert old.grad is None


def test_advantages_are_clipped_and_missing_ones_named():
    assert clip_advantages([6, -1, 0.5]).tolist() == [5, -1, 0.5]
    for missing in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"no advantage for samples \[1, 3\]"):
            clip_advantages([0.5, missing, 1.0, missing])


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_failed_reward_never_becomes_a_loss(missing):
    advantage = torch.tensor([0.5, missing])
    with pytest.raises(ValueError, match=r"no advantage for samples \[1\]: leave out those"):
        policy_loss(torch.ones(2), advantage, CLIP)
    with pytest.raises(ValueError, match=r"no advantage for samples \[1\]"):
        nft_reward(advantage)
    with pytest.raises(ValueError, match=r"in \[0, 1\], not \[0.5, nan\]"):
        nft_loss(*[torch.ones(2, 3)] * 3, torch.tensor([0.5, math.nan]))


def test_an_advantage_of_ten_spans_the_rewards():
    advantages = torch.tensor([-9.0, -5, -1, 0, 2.5, 5, 7])
    assert nft_reward(advantages).tolist() == pytest.approx([0, 0, 0.4, 0.5, 0.75, 1, 1])


@pytest.fixture
def samples(random):
    """Targets of 500 samples at one noised latent, rewards that depend on them, their mean."""
    target = random(500, 3)
    reward = nft_reward(2 * target[:, 0] + random(500))
    return target, reward, target.mean(0)


def covariance(target, reward):
    return ((reward - reward.mean())[:, None] * (target - target.mean(0))).mean(0)


def nft_gradient(prediction, old, target, reward, beta):
    """Gradient for each element of one prediction of all samples, without the constant 5 / 3."""
    prediction = prediction.clone().requires_grad_()
    rows = [each.expand(len(target), -1) for each in (prediction, old)]
    nft_loss(*rows, target, reward, beta=beta).loss.backward()
    return prediction.grad * 3 / ADVANTAGE_CLIP


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
def test_the_minimum_is_two_covariances_over_beta_from_the_old_policy(samples, beta):
    """The gradient is linear in each element, so that two of them give its zero."""
    target, reward, old = samples
    first = nft_gradient(old, old, target, reward, beta)
    slope = nft_gradient(old + 1, old, target, reward, beta) - first
    expected = old + 2 / beta * covariance(target, reward)
    assert (old - first / slope).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    at_minimum = nft_gradient(expected, old, target, reward, beta)
    assert at_minimum.tolist() == pytest.approx([0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
def test_the_gradient_at_the_old_policy_is_four_covariances_for_every_beta(samples, beta):
    target, reward, old = samples
    found = nft_gradient(old, old, target, reward, beta)
    expected = -4 * covariance(target, reward)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_at_the_old_policy_it_is_regression_weighted_by_the_advantage(random):
    target, old, advantage = random(6, 4), random(6, 4), random(6)
    predictions = [old.clone().requires_grad_() for _ in range(2)]
    nft_loss(predictions[0], old, target, nft_reward(advantage), beta=0.3).loss.backward()
    (advantage * (predictions[1] - target).square().mean(1)).mean().backward()
    found, expected = (each.grad.flatten().tolist() for each in predictions)
    assert found == pytest.approx(expected)


def test_a_loss_by_hand():
    """Old 1, new 3, target 2, b 1/2: at 2 the error is 0, at 0 it is -2; r = 1/4; 5 / b = 10."""
    old, target, new = (torch.full((1, 2), value) for value in (1.0, 2.0, 3.0))
    reward = torch.tensor([0.25])
    terms = nft_loss(new, old, target, reward, beta=0.5)
    assert terms.loss.item() == 10 * 0.75 * 4
    assert terms.deviation.tolist() == [4.0]
    scaled = nft_loss(new, old, target, reward, beta=0.5, scale=torch.tensor([0.2]))
    assert scaled.loss.item() == pytest.approx(10 * 0.75 * 0.2 * 2)


def test_the_published_error_is_divided_by_its_size_and_never_by_zero(random):
    """For errors c e: ``mean((c e) ** 2) / max(mean |c e|, 1e-5)``; no gradient of the divisor."""
    old, scale = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0.5, 1e-6]).double()
    prediction, target = random(2, 3).requires_grad_(), old
    loss = nft_loss(prediction, old, target, torch.ones(2).double(), scale=scale).loss
    loss.backward()
    error = scale[:, None] * prediction.detach()
    size = torch.stack([error[0].abs().mean(), torch.tensor(1e-5).double()])
    expected = 5 * (error.square().mean(1) / size).mean()
    assert loss.item() == pytest.approx(expected.item())
    gradient = 5 * 2 * scale[:, None] * error / 3 / size[:, None] / 2
    assert prediction.grad.flatten().tolist() == pytest.approx(gradient.flatten().tolist())
    assert nft_loss(old, old, old, torch.ones(2), scale=scale).loss == 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_scale_is_that_of_the_clean_latents(random, kind):
    sigma = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    alpha = 1 - sigma if kind == "flow" else (1 - sigma**2).sqrt()
    x, first, second = random(3), random(3), random(3)
    clean, other = (to_clean_and_noise(kind, x, each, alpha, sigma)[0] for each in (first, second))
    found = clean_error_scale(kind, alpha, sigma)
    assert found.tolist() == pytest.approx(((clean - other) / (first - second)).abs().tolist())


def test_half_precision_is_widened_before_differences(random):
    given = [random(4, 64).bfloat16() for _ in range(3)]
    reward = random(4).sigmoid()
    found = nft_loss(*given, reward, beta=0.1).loss
    expected = nft_loss(*(each.double() for each in given), reward, beta=0.1).loss
    assert found.item() == near(expected.item())
    half, double = (kl(a, b, STD) for a, b in (given[:2], [each.double() for each in given[:2]]))
    assert half.tolist() == near(double.tolist())


TWO, COLUMN, ROWS = torch.ones(2), torch.ones(2, 1), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ratio(TWO, COLUMN), "must be one"),
        (lambda: guarded_ratio(COLUMN, COLUMN, ROWS, ROWS, STD), "must be one"),
        (lambda: guarded_ratio(TWO, TWO, ROWS, COLUMN, STD), "must be one"),
        (lambda: guarded_ratio(TWO, TWO, ROWS, ROWS, 0.0), "std must be above 0, not 0.0"),
        (lambda: kl(ROWS, COLUMN, STD), "must be one"),
        (lambda: kl(ROWS, ROWS, 0.0), "a deterministic step has no density"),
        (lambda: policy_loss(TWO, torch.ones(3), CLIP), r"not \[\(2,\), \(3,\)\]"),
        (lambda: policy_loss(TWO, TWO, 0.0), "the clip range must be above 0, not 0.0"),
        (lambda: nft_loss(ROWS, ROWS, COLUMN, TWO), r"not \[\(2,\)\] and \[\(2, 3\), \(2, 3\)"),
        (lambda: nft_loss(ROWS, ROWS, ROWS, COLUMN), "must be one"),
        (lambda: nft_loss(ROWS, ROWS, ROWS, TWO, scale=torch.ones(3)), "must be one"),
        (lambda: nft_loss(ROWS, ROWS, ROWS, 2 * TWO), r"in \[0, 1\], not \[2.0, 2.0\]"),
        (lambda: nft_loss(ROWS, ROWS, ROWS, TWO, beta=0.0), "beta must be above 0, not 0.0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
