"""Loss functions: of scalar judges, in nats and averaged over the batch, and of denoisers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from unified_reward.policies.step_rules import Prediction


RANKING_TEMPERATURE = 0.1
"""Divides the difference of two expected scores in [0, 1] before they are ranked."""


def bradley_terry(difference: Tensor, outcome: Tensor) -> Tensor:
    """``-o log sigmoid(d) - (1 - o) log sigmoid(-d)``: Bradley and Terry 1952, doi:10.2307/2334029.

    Args:
        difference: Value of the first minus value of the second, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 a tie; a share between. Shape (B,).
    """
    return -(outcome * logsigmoid(difference) + (1 - outcome) * logsigmoid(-difference)).mean()


def rao_kupper(difference: Tensor, outcome: Tensor, margin: Tensor) -> Tensor:
    """Bradley-Terry with ties: Rao and Kupper 1967, doi:10.2307/2282923, theta = exp(margin).

    ``P(first) = sigmoid(d - e)``, ``P(second) = sigmoid(-d - e)`` and
    ``P(tie) = (exp(2 e) - 1) P(first) P(second)``.

    Args:
        difference: Value of the first minus value of the second, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 a tie. Shape (B,).
        margin: ``e`` > 0, a scalar; learned.
    """
    first, second = logsigmoid(difference - margin), logsigmoid(-difference - margin)
    tie = torch.log(torch.expm1(2 * margin)) + first + second
    logprob = torch.where(outcome == 1, first, torch.where(outcome == 0, second, tie))
    return -logprob.mean()


def regression(value: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy of ``sigmoid(value)`` with a score in [0, 1]; least where the two are equal.

    Args:
        value: Predicted log-odds, shape (B,).
        share: Normalised scores, shape (B,).
    """
    return bradley_terry(value, share)


def expected_share(logits: Tensor, is_step: Tensor) -> Tensor:
    """Expected score of a judge, 0 at the lowest step of its scale and 1 at the highest.

    Args:
        logits: Logits of the steps, ascending and evenly spaced, shape (B, C).
        is_step: True for the steps that a row has, which come first; at least two, or none (then
            the expected score is 0). Shape (B, C).

    Returns:
        Scores in [0, 1], shape (B,).
    """
    n = is_step.sum(-1, keepdim=True)
    position = torch.arange(logits.shape[-1], device=logits.device) / (n - 1).clamp(min=1)
    weights = logits.masked_fill(~is_step, torch.finfo(logits.dtype).min).softmax(-1)
    return (weights * is_step * position).sum(-1)


def score_ranking(first: Tensor, second: Tensor, outcome: Tensor) -> Tensor:
    """Bradley-Terry on two expected scores: ``d = (E1 - E2) / RANKING_TEMPERATURE``, by row.

    The pairwise cost of RankNet (Burges et al. 2005, doi:10.1145/1102351.1102363). The difference
    is bounded, so that a noiseless preference does not push scores to the ends of their scale.

    Args:
        first: Expected scores in [0, 1], shape (B,).
        second: Expected scores of the other candidates, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 neither. Shape (B,).

    Returns:
        Losses that are not averaged, shape (B,).
    """
    difference = (first - second) / RANKING_TEMPERATURE
    return binary_cross_entropy_with_logits(difference, outcome, reduction="none")


def uncertain_regression(value: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of a score's log-odds; both moments are learned.

    Nix and Weigend 1994, doi:10.1109/ICNN.1994.374138. Scores nearer than 0.02 to an end count as
    that far from it, since the log-odds of the ends are infinite.

    Args:
        value: Predicted means of the log-odds, shape (B,).
        sigma: Predicted standard deviations > 0, shape (B,).
        share: Normalised scores in [0, 1], shape (B,).
    """
    target = torch.logit(share, eps=0.02)
    return (((target - value) / sigma) ** 2 / 2 + sigma.log()).mean()


def marginal_logit(mean: Tensor, variance: Tensor) -> Tensor:
    """``m / sqrt(1 + pi v / 8)``: its sigmoid is nearly the mean of sigmoid over N(m, v).

    MacKay 1992, doi:10.1162/neco.1992.4.5.720.
    """
    return mean / torch.sqrt(1 + math.pi * variance / 8)


def to_positive(raw: Tensor) -> Tensor:
    """Map an unbounded parameter to a number above 0."""
    return softplus(raw) + 1e-3


def add_noise(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """``x_t = alpha x_0 + sigma e``; a flow has ``alpha = 1 - sigma``.

    Args:
        clean: Latents, shape (B, ...).
        noise: Samples of N(0, 1), of the same shape.
        alpha: Factor of the latents, in [0, 1]. Shape (B,).
        sigma: Standard deviation of the noise, in [0, 1]. Shape (B,).
    """
    return _expand(alpha, clean) * clean + _expand(sigma, clean) * noise


def denoising_target(
    kind: Prediction, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Target of a denoiser's prediction for the latents that `add_noise` makes.

    ``epsilon``: the noise ``e`` (Ho et al. 2020, arXiv:2006.11239, Eq. 14). ``v_prediction``:
    ``alpha e - sigma x_0`` (Salimans and Ho 2022, arXiv:2202.00512, appendix D). ``flow``:
    ``e - x_0`` (Lipman et al. 2023, arXiv:2210.02747, with time running to the noise).
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return _expand(alpha, noise) * noise - _expand(sigma, clean) * clean
    return noise - clean


def denoising_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, over all dimensions but the first. Shape (B,)."""
    return (predicted.float() - target.float()).square().flatten(1).mean(1)


def epsilon_error_weight(kind: Prediction, alpha: Tensor) -> Tensor:
    """Factor that turns a `denoising_error` into the error of the noise that is implied.

    At one ``x_t``, an error of v (where ``alpha ** 2 + sigma ** 2 = 1``) is that of the noise over
    alpha, and an error of a flow that of the noise over ``1 - sigma``, so that in both cases the
    weight is ``alpha ** 2``. Shape (B,).
    """
    return torch.ones_like(alpha) if kind == "epsilon" else alpha**2


class DPOTerms(NamedTuple):
    """A preference loss and the margins it is computed from."""

    loss: Tensor
    """Scalar, in nats; log 2 where model and reference agree."""
    margin: Tensor
    """Argument of the log-sigmoid: above 0 where the model prefers the chosen sample more than the
    reference does. Shape (B,)."""


def diffusion_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    weight: Tensor | float = 1.0,
    sft: float = 0.0,
) -> DPOTerms:
    """DPO loss of a denoiser, from its errors on a chosen and a rejected sample.

    Wallace et al. 2023, arXiv:2311.12908, Eq. 14, at one timestep and one noise for both samples:
    ``-log sigmoid(-beta w [(e_c - e_c,ref) - (e_r - e_r,ref)])``. ``beta`` is the paper's
    ``beta T``, ``w`` for its weighting of timesteps; errors are means over a sample's elements,
    where the paper has sums. See docs/departures.md.

    Args:
        chosen: `denoising_error` of the trained model on the chosen samples, >= 0. Shape (B,).
        rejected: That on the rejected samples. Shape (B,).
        ref_chosen: Error of the frozen reference on the chosen samples. Shape (B,).
        ref_rejected: Error of the frozen reference on the rejected samples. Shape (B,).
        beta: Above 0; larger stays closer to the reference. 2500 equals ``--beta_dpo 5000`` of
            diffusers' SDXL script and of the published code, which halve it.
        weight: Weight of each pair's timestep, >= 0. Shape (B,).
        sft: Weight of the plain error of the chosen samples, added to the loss; >= 0.

    Raises:
        ValueError: Shapes differ, or beta is not above 0.

    Example:
        >>> same = torch.ones(2)
        >>> round(diffusion_dpo(same, same, same, same, beta=1.0).loss.item(), 4)
        0.6931
    """
    shapes = {tuple(error.shape) for error in (chosen, rejected, ref_chosen, ref_rejected)}
    if len(shapes) != 1 or chosen.ndim != 1:
        raise ValueError(f"errors must be four tensors of one shape (B,), not {sorted(shapes)}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, not {beta}")
    margin = -beta * weight * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return DPOTerms(-logsigmoid(margin).mean() + sft * chosen.mean(), margin)


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """View values of shape (B,) so that they broadcast over the elements of samples."""
    return values.view(-1, *[1] * (like.ndim - 1))
