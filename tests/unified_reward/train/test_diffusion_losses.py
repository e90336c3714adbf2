"""The losses of denoisers, against sums written out by hand and in double precision."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.train.losses import (
    add_noise,
    denoising_error,
    denoising_target,
    diffusion_dpo,
    epsilon_error_weight,
)


pytestmark = pytest.mark.numeric


BETA, SFT = 2500.0, 0.5
PICTURES, CLIPS = (3, 4, 6, 10), (3, 4, 3, 4, 5)

KINDS = ["epsilon", "v_prediction", "flow"]
errors = st.floats(0, 4)


def told_target(kind, clean, noise, alpha, sigma):
    """For one element, from the papers."""
    return {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * clean,
        "flow": noise - clean,
    }[kind]


def reference(kind, predictions, clean, noise, alpha, sigma, weight):
    """Loss, and its gradient with respect to the two predictions of the trained model.

    Elements are visited one by one, in double precision. With the margin
    ``m = -beta w [(c - c_ref) - (r - r_ref)]`` of a pair, the loss of B pairs is the mean of
    ``log(1 + exp(-m)) + sft c``, and ``c`` the mean of ``(p - y) ** 2`` over N elements. So
    ``dL/dp = (sigmoid(-m) beta w + sft) 2 (p - y) / (N B)`` of the chosen, and without ``sft``
    and with the other sign of the rejected.
    """
    pairs, inner = len(alpha), [range(n) for n in clean["chosen"].shape[1:]]
    places = [*itertools.product(*inner)]
    loss = 0.0
    gradients = {
        side: torch.zeros_like(clean[side], dtype=torch.float64) for side in ("chosen", "rejected")
    }
    for b in range(pairs):
        found, gaps = {}, {}
        for model, side in itertools.product(("trained", "frozen"), ("chosen", "rejected")):
            total = 0.0
            for at in places:
                target = told_target(
                    kind,
                    float(clean[side][b][at]),
                    float(noise[b][at]),
                    float(alpha[b]),
                    float(sigma[b]),
                )
                gap = float(predictions[model, side][b][at]) - target
                gaps[model, side, at] = gap
                total += gap**2
            found[model, side] = total / len(places)
        ahead = found["trained", "chosen"] - found["frozen", "chosen"]
        behind = found["trained", "rejected"] - found["frozen", "rejected"]
        scale = BETA * float(weight[b])
        margin = -scale * (ahead - behind)
        loss += (math.log1p(math.exp(-margin)) + SFT * found["trained", "chosen"]) / pairs
        pull = scale / (1 + math.exp(margin))
        for side, factor in (("chosen", pull + SFT), ("rejected", -pull)):
            for at in places:
                gap = gaps["trained", side, at]
                gradients[side][b][at] = factor * 2 * gap / (len(places) * pairs)
    return loss, gradients


@pytest.mark.parametrize("shape", [PICTURES, CLIPS])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_equations(kind, shape):
    drawing = torch.Generator().manual_seed(len(kind) + len(shape))
    sides = ("chosen", "rejected")
    clean = {side: torch.randn(shape, generator=drawing) for side in sides}
    noise = torch.randn(shape, generator=drawing)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    alpha = 1 - sigma if kind == "flow" else (1 - sigma**2).sqrt()
    weight = epsilon_error_weight(kind, alpha)
    targets = {side: denoising_target(kind, clean[side], noise, alpha, sigma) for side in sides}
    predictions = {
        (model, side): targets[side] + 0.03 * torch.randn(shape, generator=drawing)
        for model in ("trained", "frozen")
        for side in sides
    }
    ours = {side: predictions["trained", side].clone().requires_grad_() for side in sides}
    loss, margin = diffusion_dpo(
        *(denoising_error(ours[side], targets[side]) for side in sides),
        *(denoising_error(predictions["frozen", side], targets[side]) for side in sides),
        beta=BETA,
        weight=weight,
        sft=SFT,
    )
    loss.backward()
    expected, gradients = reference(kind, predictions, clean, noise, alpha, sigma, weight)
    assert margin.shape == (3,)
    assert margin.abs().max() > 0.1, "else the sigmoid is hardly tried"
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    for side in sides:
        assert gradients[side].abs().max() > 0.01
        assert torch.allclose(ours[side].grad.double(), gradients[side], rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [0.01, 2500.0, 1e6])
def test_a_model_that_is_its_reference_loses_the_logarithm_of_two(beta):
    won, lost = torch.tensor([0.3, 7.0]), torch.tensor([1.1, 0.0])
    loss, margin = diffusion_dpo(won, lost, won, lost, beta=beta, weight=torch.tensor([0.2, 3.0]))
    assert loss == torch.tensor(math.log(2))
    assert margin.tolist() == [0, 0]


@given(errors, errors, errors, errors)
def test_the_published_five_thousand_is_twenty_five_hundred_here(won, lost, ref_won, ref_lost):
    """Published: the log-sigmoid of ``-0.5 * 5000 * ((won - lost) - (ref_won - ref_lost))``."""
    published = -0.5 * 5000 * ((won - lost) - (ref_won - ref_lost))
    given = (torch.tensor([entry], dtype=torch.float64) for entry in (won, lost, ref_won, ref_lost))
    _, margin = diffusion_dpo(*given, beta=2500)
    assert float(margin) == pytest.approx(published, abs=1e-8)


def test_an_advantage_of_a_ten_thousandth_costs_what_its_odds_say():
    """beta 2500 and 0.0004 less error than the reference: a margin of 1, ln(1 + 1/e)."""
    won, lost = torch.tensor([0.1 - 0.0004], dtype=torch.float64), torch.tensor([0.2])
    loss, margin = diffusion_dpo(won, lost, torch.tensor([0.1]).double(), lost, beta=2500)
    assert float(margin) == pytest.approx(1, abs=1e-4)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-4)


def test_errors_of_a_clip_are_meaned_over_columns_too():
    """A clip of two columns, wrong by 2 in the first alone: (4 + 0) / 2 = 2.

    The chosen one, which the reference has right, then has a margin of -2 at beta 1. Published
    code for clips leaves the columns, and means their losses: (ln(1 + e^4) + ln 2) / 2 instead of
    ln(1 + e^2).
    """
    target = torch.zeros(1, 4, 3, 5, 2)
    wrong = target.clone()
    wrong[..., 0] = 2.0
    right, off = denoising_error(target, target), denoising_error(wrong, target)
    assert off.tolist() == [2.0]
    loss, margin = diffusion_dpo(off, right, right, right, beta=1.0)
    assert margin.tolist() == [-2.0]
    assert float(loss) == pytest.approx(math.log(1 + math.e**2))
    columns = (math.log(1 + math.e**4) + math.log(2)) / 2
    assert abs(float(loss) - columns) > 0.2


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 5), (2, 4, 2, 3, 5)])
def test_an_error_is_one_number_a_sample_and_independent_of_the_other_samples(shape):
    result = torch.ones(shape)
    result[1] = 3.0
    assert denoising_error(result, torch.zeros(shape)).tolist() == [1.0, 9.0]


def test_half_precision_is_widened_before_it_is_squared():
    """1.0078125 is one step above 1 in bfloat16; its square is not a bfloat16."""
    entry = torch.full((1, 1), 1.0078125, dtype=torch.bfloat16)
    assert denoising_error(entry, torch.zeros_like(entry)).item() == 1.0078125**2


@pytest.mark.parametrize(
    ("kind", "alpha", "target"),
    [("epsilon", 0.8, 5.0), ("v_prediction", 0.8, 0.8 * 5 - 0.6 * 2), ("flow", 0.4, 5.0 - 2.0)],
)
def test_what_is_seen_and_what_should_be_said_by_hand(kind, alpha, target):
    """For x = 2 and e = 5 at sigma 0.6: 0.8 * 2 + 0.6 * 5 = 4.6; of a flow 0.4 * 2 + 3 = 3.8."""
    clean, noise = torch.full((1, 1, 2), 2.0), torch.full((1, 1, 2), 5.0)
    at = torch.tensor([alpha]), torch.tensor([0.6])
    assert add_noise(clean, noise, *at).flatten().tolist() == pytest.approx([alpha * 2 + 3] * 2)
    text = denoising_target(kind, clean, noise, *at)
    assert text.flatten().tolist() == pytest.approx([target] * 2)


def test_each_sample_has_its_own_noise_level():
    clean, noise = torch.ones(2, 1, 1), torch.full((2, 1, 1), 10.0)
    seen = add_noise(clean, noise, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert seen.flatten().tolist() == [1.0, 10.0]


@given(st.floats(0.05, 0.95), st.integers(0, 999))
def test_one_denoiser_costs_the_same_however_it_speaks(sigma, seed):
    """A guess ``e`` of the noise implies ``x = (x_t - sigma e) / alpha``, and with it v and flow.

    ``v`` where ``alpha ** 2 + sigma ** 2 = 1``, flow where ``alpha + sigma = 1``.
    """
    drawing = torch.Generator().manual_seed(seed)
    clean, noise, off = torch.randn(3, 2, 4, 3, 3, generator=drawing)
    guess = noise + 0.2 * off
    for kind, left in (("v_prediction", math.sqrt(1 - sigma**2)), ("flow", 1 - sigma)):
        alpha, spread = torch.full((2,), left), torch.full((2,), sigma)
        seen = add_noise(clean, noise, alpha, spread)
        implied = (seen - sigma * guess) / left
        spoken = left * guess - sigma * implied if kind == "v_prediction" else guess - implied
        target = denoising_target(kind, clean, noise, alpha, spread)
        cost = epsilon_error_weight(kind, alpha) * denoising_error(spoken, target)
        plain = epsilon_error_weight("epsilon", alpha) * denoising_error(guess, noise)
        assert cost.tolist() == pytest.approx(plain.tolist(), rel=1e-3)


def test_the_plain_error_of_the_chosen_is_added_by_its_weight():
    """Means of 1 and 3: ln 2 + 0.25 * 2."""
    won, lost = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 5.0])
    loss, margin = diffusion_dpo(won, lost, won, lost, beta=7.0, sft=0.25)
    assert float(loss) == pytest.approx(math.log(2) + 0.5)
    assert margin.tolist() == [0, 0]


@given(errors, errors, errors, errors, st.floats(1e-3, 1), st.floats(0.1, 5))
def test_the_loss_falls_as_the_chosen_improves_and_the_rejected_worsens(
    won, lost, ref_won, ref_lost, by, beta
):
    def loss(*visible):
        given = [torch.tensor([entry], dtype=torch.float64) for entry in visible]
        return float(diffusion_dpo(*given, beta=beta).loss)

    here = loss(won, lost, ref_won, ref_lost)
    assert loss(won + by, lost, ref_won, ref_lost) > here
    assert loss(won, lost + by, ref_won, ref_lost) < here
    assert loss(won, lost, ref_won + by, ref_lost) < here
    assert loss(won, lost, ref_won, ref_lost + by) > here


def test_a_pair_without_weight_teaches_nothing():
    won = torch.tensor([0.5, 0.5], requires_grad=True)
    rest = torch.tensor([0.1, 0.1])
    diffusion_dpo(won, rest, rest, rest, beta=3.0, weight=torch.tensor([0.0, 1.0])).loss.backward()
    first, second = won.grad.tolist()
    assert first == 0
    assert second > 0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_is_above_zero(beta):
    entry = torch.ones(2)
    with pytest.raises(ValueError, match=f"beta must be above 0, not {beta}"):
        diffusion_dpo(entry, entry, entry, entry, beta=beta)


def test_errors_that_are_not_one_number_a_pair_are_refused():
    entry, columns = torch.ones(2), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"one shape \(B,\), not \[\(2,\), \(2, 3\)\]"):
        diffusion_dpo(entry, columns, entry, entry, beta=1.0)
    with pytest.raises(ValueError, match=r"one shape \(B,\), not \[\(2, 3\)\]"):
        diffusion_dpo(columns, columns, columns, columns, beta=1.0)
