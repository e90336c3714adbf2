"""Rules of stochastic denoising steps: the Gaussian of the next latents, and its density.

Every deterministic first-order step is one formula in the factor ``alpha`` of the clean latents
and the standard deviation ``sigma`` of the noise. A step rule adds noise to it, so that the next
latents have a known density. Knows neither schedulers nor networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unified_reward.core.errors import ConfigError, ModelError


Prediction = Literal["epsilon", "v_prediction", "flow"]
"""Prediction type: the noise, the velocity ``v``, or the velocity of a flow."""
RuleName = Literal["ddim", "flow", "cps"]

DEFAULT_STRENGTH: Mapping[RuleName, float] = {"ddim": 1.0, "flow": 0.7, "cps": 0.8}
"""``eta`` of ``ddim`` and noise level ``a`` of ``flow`` and ``cps``, as published."""


class Level(NamedTuple):
    """Noise level of latents ``alpha x_0 + sigma e``, in the coordinates of the scheduler."""

    alpha: float
    sigma: float


@dataclass(frozen=True)
class StepRule:
    """Rule of a stochastic step. Strength 0 is the deterministic first-order step.

    ``ddim``: Song et al. 2021, arXiv:2010.02502, Eqs. 12, 16; strength is its ``eta``, in [0, 1].
    ``flow``: Flow-GRPO, arXiv:2505.05470; strength is its ``a``, >= 0.
    ``cps``: coefficient-preserving sampling, arXiv:2509.05952; strength in [0, 1].
    """

    name: RuleName
    strength: float

    def __post_init__(self) -> None:
        if self.name not in DEFAULT_STRENGTH:
            names = ", ".join(DEFAULT_STRENGTH)
            raise ConfigError(f"the step rule must be one of {names}, not {self.name!r}")
        largest = math.inf if self.name == "flow" else 1.0
        if not 0 <= self.strength <= largest or math.isinf(self.strength):
            raise ConfigError(
                f"the strength of {self.name} must be in [0, {largest:g}], not {self.strength}"
            )


DETERMINISTIC = StepRule("ddim", 0.0)
"""First-order step without noise."""


class Transition(NamedTuple):
    """Gaussian of the next latents, independent in every element."""

    mean: Tensor
    """Shape of the latents, at least float32."""
    std: float
    """Standard deviation; 0 for a deterministic step."""


def to_clean_and_noise(
    kind: Prediction,
    x: Tensor,
    prediction: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Estimates of the clean latents and of the noise that a prediction implies.

    Their mixture ``alpha x_0 + sigma e`` is ``x``. Coordinates need not be variance preserving:
    ``v`` is that of ``x / sqrt(alpha ** 2 + sigma ** 2)``.

    Args:
        kind: Prediction type.
        x: Noisy latents.
        prediction: Output of the network after guidance, of the same shape.
        alpha: Factor of the clean latents in ``x``; with ``epsilon`` not 0.
        sigma: Standard deviation of the noise in ``x``.
    """
    if kind == "epsilon":
        return (x - sigma * prediction) / alpha, prediction
    if kind == "flow":
        total = alpha + sigma
        return (x - sigma * prediction) / total, (x + alpha * prediction) / total
    scale = (alpha**2 + sigma**2) ** 0.5
    cosine, sine, x = alpha / scale, sigma / scale, x / scale
    return cosine * x - sine * prediction, cosine * prediction + sine * x


def step(
    rule: StepRule,
    kind: Prediction,
    x: Tensor,
    prediction: Tensor,
    level: Level,
    next_level: Level,
) -> Transition:
    """Gaussian of the next latents; without noise where no noise is to be left.

    With ``std_n`` the standard deviation, ``ddim`` and ``cps`` have the mean
    ``alpha_n x_0 + sqrt(sigma_n ** 2 - std_n ** 2) e`` in any coordinates. ``flow`` is an Euler
    step of the stochastic equation with the marginals of the flow.

    Args:
        rule: Step rule with its strength.
        kind: Prediction type.
        x: Latents before the step, shape (B, ...). Half precision is computed in float32.
        prediction: Output of the network after guidance, of the same shape.
        level: Noise level before the step.
        next_level: Noise level after the step.

    Raises:
        ModelError: The rule is ``flow`` and the network does not predict the velocity of a flow.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, prediction.dtype), torch.float32)
    x, prediction = x.to(dtype), prediction.to(dtype)
    if rule.name == "flow":
        if kind != "flow" or not _is_flow(level):
            raise ModelError(f"the step rule flow needs a flow model, not {kind}; use ddim or cps")
        if rule.strength and next_level.sigma:
            return _flow_step(rule.strength, x, prediction, level.sigma, next_level.sigma)
        std = 0.0
    elif rule.name == "cps":
        std = next_level.sigma * math.sin(rule.strength * math.pi / 2)
    else:
        ratio = level.alpha * next_level.sigma / (next_level.alpha * level.sigma)
        std = rule.strength * next_level.sigma * math.sqrt(max(0.0, 1 - ratio**2))
    clean, noise = to_clean_and_noise(kind, x, prediction, *level)
    kept = math.sqrt(max(0.0, next_level.sigma**2 - std**2))
    return Transition(next_level.alpha * clean + kept * noise, std)


def _flow_step(a: float, x: Tensor, v: Tensor, sigma: float, next_sigma: float) -> Transition:
    # The drift is unbounded at sigma 1, so the published code takes 1 - sigma of the second level.
    remaining = 1 - (next_sigma if sigma >= 1 else sigma)
    variance, dt = a**2 * sigma / remaining, next_sigma - sigma
    drift = variance / (2 * sigma)
    mean = x * (1 + drift * dt) + v * (1 + drift * (1 - sigma)) * dt
    return Transition(mean, math.sqrt(-variance * dt))


def _is_flow(level: Level) -> bool:
    return math.isclose(level.alpha + level.sigma, 1, abs_tol=1e-6)


def log_prob(x_next: Tensor, mean: Tensor, std: float) -> Tensor:
    """Gaussian log-density of each sample, averaged over its elements (not summed).

    Flow-GRPO, arXiv:2505.05470, as its code has it.

    Args:
        x_next: Latents after the step, shape (B, ...).
        mean: Of the same shape.
        std: Standard deviation, > 0.

    Returns:
        Shape (B,), float32, in nats per element.
    """
    if not std > 0:
        raise ValueError("a deterministic step (std 0) has no density")
    error = (x_next.float() - mean.float()) / std
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return -0.5 * error.square().flatten(1).mean(1) - constant
