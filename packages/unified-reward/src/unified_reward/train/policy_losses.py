"""Loss functions of reinforcement learning from rewards: GRPO of stochastic steps, DiffusionNFT.

Formulas of tensors; knows neither pipelines, schedulers nor rewards. A sample whose reward failed
has no advantage and is left out by the caller: no number takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unified_reward.policies.step_rules import Prediction


ADVANTAGE_CLIP = 5.0
"""Largest size of an advantage, as in the code of Flow-GRPO and of DiffusionNFT."""
CLEAN_ERROR_FLOOR = 1e-5
"""Smallest divisor of an error of clean latents, as in the code of DiffusionNFT."""


def clip_advantages(values: Sequence[float | None]) -> Tensor:
    """Advantages as a float32 tensor of shape (B,), clipped; ValueError where one is missing.

    Example:
        >>> clip_advantages([0.5, -7])
        tensor([ 0.5000, -5.0000])
    """
    advantages = torch.tensor([float("nan") if one is None else float(one) for one in values])
    _check_finite(advantages)
    return advantages.clamp(-ADVANTAGE_CLIP, ADVANTAGE_CLIP)


def ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Importance ratio ``exp(l - l_old)`` of Flow-GRPO, arXiv:2505.05470; exactly 1 at equality.

    Log-densities are means over the elements of a sample, as in its code, where the paper has
    sums; hence the small clip ranges, 1e-5 to 1e-3.

    Args:
        log_prob: `step_rules.log_prob` of the step under the trained policy, in nats. Shape (B,).
        old_log_prob: That under the policy that sampled. Shape (B,).
    """
    _check_shapes((log_prob, old_log_prob))
    return torch.exp(log_prob - old_log_prob.detach())


def guarded_ratio(
    log_prob: Tensor, old_log_prob: Tensor, mean: Tensor, old_mean: Tensor, std: float
) -> Tensor:
    """Importance ratio without bias: RatioNorm of GRPO-Guard, arXiv:2510.22319.

    ``exp(s [l - l_old + mean((mu - mu_old) ** 2) / (2 s ** 2)])``. At a step ``mu_old + s e`` the
    exponent is ``mean(e (mu - mu_old))``, which is 0 on average under every policy; that of `ratio`
    is below 0 by the term added here, so that the clip seldom reaches positive advantages. Its
    gradient at ``mu_old`` is ``s`` times that of `ratio`. The paper also divides the loss of a step
    by ``-dt``, see `policy_loss`.

    Args:
        log_prob: As in `ratio`.
        old_log_prob: As in `ratio`.
        mean: Mean of the step under the trained policy, shape (B, ...).
        old_mean: That under the policy that sampled, of the same shape.
        std: Standard deviation ``s`` of the step (with its ``sqrt(-dt)``), > 0.
    """
    _check_shapes((log_prob, old_log_prob), (mean, old_mean))
    return torch.exp(std * (log_prob - old_log_prob.detach() + kl(mean, old_mean, std)))


def kl(mean: Tensor, ref_mean: Tensor, std: float) -> Tensor:
    """KL divergence of a step from the reference's, ``mean((mu - mu_ref) ** 2) / (2 s ** 2)``.

    Flow-GRPO, arXiv:2505.05470; its code leaves ``-dt`` out of ``s ** 2``, so that a weight
    published with it is, here, that weight times ``-dt``.

    Args:
        mean: Mean of the step under the trained policy, shape (B, ...).
        ref_mean: That under the reference, of the same shape.
        std: Standard deviation ``s`` of both, > 0.

    Returns:
        In nats per element, >= 0. Shape (B,).
    """
    _check_shapes((), (mean, ref_mean))
    if not std > 0:
        raise ValueError(f"a deterministic step has no density: std must be above 0, not {std}")
    return _mean_square(_widen(mean) - _widen(ref_mean).detach()) / (2 * std**2)


class PolicyTerms(NamedTuple):
    """A policy loss and its share of clipped samples."""

    loss: Tensor
    """Scalar."""
    clipped_share: Tensor
    """Share of the samples without gradient: the ratio is above ``1 + c`` at a positive advantage,
    or below ``1 - c`` at a negative one. Scalar in [0, 1]."""


def policy_loss(
    ratio: Tensor, advantage: Tensor, clip: float, duration: float = 1.0
) -> PolicyTerms:
    """Clipped policy loss ``-mean min(r A, clip(r, 1 - c, 1 + c) A)``, over a duration.

    Schulman et al. 2017, arXiv:1707.06347, Eq. 7; GRPO, arXiv:2402.03300, takes advantages from a
    group. At ratio 1 and duration 1 the gradient is that of REINFORCE, ``-mean(A grad l)``.

    Args:
        ratio: `ratio` or `guarded_ratio`, shape (B,).
        advantage: From `clip_advantages`, shape (B,).
        clip: ``c`` > 0.
        duration: ``-dt`` > 0, by which GRPO-Guard, arXiv:2510.22319, divides the loss of a step:
            the mean of a step of a flow moves by ``dt`` with its velocity, so that without it
            short steps would count less.

    Raises:
        ValueError: Shapes differ, an advantage is not finite, or ``clip`` is not above 0.
    """
    _check_shapes((ratio, advantage))
    _check_finite(advantage)
    if not clip > 0:
        raise ValueError(f"the clip range must be above 0, not {clip}")
    is_clipped = ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    return PolicyTerms(loss / duration, is_clipped.float().mean())


def nft_reward(advantage: Tensor) -> Tensor:
    """Reward of DiffusionNFT, arXiv:2509.16117: ``clip(A / 10 + 0.5, 0, 1)``. Shape (B,)."""
    _check_finite(advantage)
    return (advantage / (2 * ADVANTAGE_CLIP) + 0.5).clamp(0, 1)


def clean_error_scale(kind: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Error of the clean latents over that of the prediction, at one ``x_t``. Shape (B,).

    ``sigma`` of a flow (``alpha + sigma = 1``) and of v (``alpha ** 2 + sigma ** 2 = 1``), and
    ``sigma / alpha`` of the noise.
    """
    return sigma / alpha if kind == "epsilon" else sigma


class NFTTerms(NamedTuple):
    """A loss of DiffusionNFT and the distance from the policy that sampled."""

    loss: Tensor
    """Scalar."""
    deviation: Tensor
    """``mean((v - v_old) ** 2)``; while it is 0, ``beta`` has no effect. Shape (B,)."""


def nft_loss(
    prediction: Tensor,
    old: Tensor,
    target: Tensor,
    reward: Tensor,
    *,
    beta: float = 1.0,
    scale: Tensor | None = None,
) -> NFTTerms:
    """Loss of DiffusionNFT, arXiv:2509.16117, with the factor 5 (`ADVANTAGE_CLIP`) of its code.

    ``(5 / b) mean(r L(v_old + b d) + (1 - r) L(v_old - b d))``, where ``d = v - v_old`` and ``L``
    is the error against the target. With ``L`` the squared error and ``v_old`` the mean target, the
    minimum is at ``v_old + (2 / b) Cov(r, target)``; the gradient at ``v_old`` is
    ``5 (-4 Cov(r, target))`` for every ``b``, which is that of ``mean(A L(v))`` where
    `nft_reward` does not clip. The published penalty is added by the caller: 1e-4 times the
    `losses.denoising_error` against the reference's prediction.

    Args:
        prediction: Of the trained policy, of any type. Shape (B, ...).
        old: That of the policy that sampled, of the same shape.
        target: From `losses.denoising_target`, of the same shape.
        reward: From `nft_reward`, shape (B,).
        beta: ``b`` > 0; smaller moves further from ``v_old``. Published: 1, and 0.1 for several
            rewards.
        scale: From `clean_error_scale`, shape (B,), for the published ``L``: squared error of the
            clean latents over its mean absolute error. None: squared error of the prediction.

    Raises:
        ValueError: Shapes differ, a reward is not in [0, 1], or beta is not above 0.
    """
    batch = (reward,) if scale is None else (reward, scale)
    _check_shapes(batch, (prediction, old, target))
    if not ((reward >= 0) & (reward <= 1)).all():
        raise ValueError(f"rewards must be in [0, 1], not {reward.tolist()}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, not {beta}")
    old, target = _widen(old).detach(), _widen(target)
    step = _widen(prediction) - old
    positive = _nft_error(old + beta * step - target, scale)
    negative = _nft_error(old - beta * step - target, scale)
    loss = (reward * positive + (1 - reward) * negative).mean()
    return NFTTerms(loss * (ADVANTAGE_CLIP / beta), _mean_square(step.detach()))


def _nft_error(error: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return _mean_square(error)
    size = scale * error.detach().abs().flatten(1).mean(1)
    return scale**2 * _mean_square(error) / size.clamp(min=CLEAN_ERROR_FLOOR)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)


def _widen(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_shapes(batch: tuple[Tensor, ...], latents: tuple[Tensor, ...] = ()) -> None:
    shapes, large = [tuple(one.shape) for one in batch], [tuple(one.shape) for one in latents]
    if len({*shapes, *(one[:1] for one in (*shapes, *large))}) > 1 or len({*large}) > 1:
        raise ValueError(f"shapes must be one (B,) and one (B, ...), not {shapes} and {large}")


def _check_finite(advantage: Tensor) -> None:
    failed = (~advantage.isfinite()).nonzero().flatten().tolist()
    if failed:
        raise ValueError(f"no advantage for samples {failed}: leave out those whose reward failed")
