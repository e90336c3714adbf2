"""Noise levels of the timesteps that a network is trained on, from a pipeline's scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.noise_levels import added_noise
from unified_reward.policies.step_rules import Prediction


class Schedule(NamedTuple):
    """Noise levels of the T timesteps a network is trained on, ascending."""

    prediction_type: Prediction
    alpha: Tensor
    """Factor of the clean latents, in [0, 1]. Shape (T,), float64."""
    sigma: Tensor
    """Standard deviation of the noise, in [0, 1]. Shape (T,), float64."""
    timestep: Tensor
    """Argument of the network, shape (T,)."""

    def nearest_steps(self, timesteps: Sequence[float]) -> Tensor:
        """Indices of the nearest of the T timesteps, ascending, without repetition."""
        wanted = torch.tensor(sorted(timesteps), dtype=torch.float64)
        return (self.timestep.double()[None] - wanted[:, None]).abs().argmin(1).unique()


def read_schedule(scheduler: Any) -> Schedule:
    """Read prediction type and noise levels from a pipeline's scheduler.

    A flow whose shift depends on the size of the sample counts as not shifted.

    Raises:
        ModelError: The prediction type or the scheduler is not supported.
    """
    config, name = scheduler.config, type(scheduler).__name__
    is_flow = "FlowMatch" in name
    kind = "flow_prediction" if is_flow else config.get("prediction_type", "epsilon")
    steps = config.num_train_timesteps
    if config.get("invert_sigmas"):
        raise ModelError(f"a {name} that inverts its sigmas cannot be aligned")
    if kind == "flow_prediction":
        is_fixed = not config.get("use_dynamic_shifting")
        shift = (is_fixed and config.get("shift", config.get("flow_shift"))) or 1.0
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        sigma = shift * even / (1 + (shift - 1) * even)
        return Schedule("flow", 1 - sigma, sigma, (sigma * steps).float())
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"{kind} cannot be aligned; epsilon, v_prediction and flows can")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(f"a {name} cannot be aligned; DDPM, DDIM, Euler and flow matching can")
    signal = scheduler.alphas_cumprod.double()
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    return Schedule(cast("Prediction", kind), alpha, sigma, torch.arange(steps))


def check_schedule(schedule: Schedule, scheduler: Any, scales: Sequence[float] = ()) -> None:
    """Compare a schedule with the noise that the scheduler itself adds at its timesteps.

    Args:
        schedule: Noise levels by `read_schedule`.
        scheduler: Scheduler with the timesteps of a run.
        scales: Factors from its noisy latents to those of the network, of each of its steps.

    Raises:
        ModelError: They differ, as where a flow runs the other way, or the network gets latents of
            another scale.
    """
    timesteps = scheduler.timesteps.cpu()
    alpha, sigma = added_noise(scheduler, timesteps)
    total = alpha + sigma if schedule.prediction_type == "flow" else (alpha**2 + sigma**2).sqrt()
    nearest = (schedule.timestep.double()[None] - timesteps.double()[:, None]).abs().argmin(1)
    # Timesteps may be rounded or lie between those of the training.
    if not torch.allclose(sigma / total, schedule.sigma[nearest], rtol=0, atol=5e-3):
        raise ModelError(
            f"a {type(scheduler).__name__} adds noise of {(sigma / total).tolist()} at timesteps "
            f"{timesteps.tolist()}, which is not that of its configuration"
        )
    if len(scales) != len(timesteps):
        return
    found = torch.tensor(scales) * torch.stack([alpha, sigma])
    wanted = torch.stack([schedule.alpha[nearest], schedule.sigma[nearest]])
    if not torch.allclose(found.double(), wanted, rtol=0, atol=1e-2):
        raise ModelError(
            f"the network gets noisy latents scaled by {[*scales]}, where {sigma.tolist()} is the "
            f"noise of the {type(scheduler).__name__}: not what it was trained on"
        )
