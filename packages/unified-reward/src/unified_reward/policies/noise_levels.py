"""Noise levels and prediction types of diffusers schedulers.

Read from the scheduler's own formulas, in the coordinates of the ``sample`` of its step. Refuses
schedulers whose steps are not first-order steps between known levels. Knows no networks.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.step_rules import Level, Prediction


class Levels(NamedTuple):
    """Noise levels of several latents, each of shape (N,), float64."""

    alpha: Tensor
    sigma: Tensor

    def at(self, index: int) -> Level:
        """Level of the given index."""
        return Level(self.alpha[index].item(), self.sigma[index].item())


def prediction_type(scheduler: Any) -> Prediction:
    """Prediction type of the network that a scheduler steps with.

    Raises:
        ModelError: The network predicts something else, as the clean latents.
    """
    # A configuration keeps keys of other schedulers that this class does not read.
    if "prediction_type" in inspect.signature(type(scheduler).__init__).parameters:
        name = scheduler.config.prediction_type
    else:
        name = "flow" if hasattr(scheduler, "scale_noise") else "epsilon"
    name = "flow" if name == "flow_prediction" else name
    if name not in ("epsilon", "v_prediction", "flow"):
        raise ModelError(
            f"{type(scheduler).__name__} has a network that predicts {name!r}; its steps cannot be "
            "recorded"
        )
    return name


def check_scheduler(scheduler: Any) -> None:
    """Raise unless a scheduler takes first-order steps between known noise levels.

    Raises:
        ModelError: It does not, with the reason.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if not hasattr(scheduler, "step"):
        raise ModelError(f"{name} has no step")
    arguments = [*inspect.signature(scheduler.step).parameters]
    for is_refused, reason in (
        (getattr(scheduler, "order", 1) != 1, "calls the network several times a step"),
        (hasattr(scheduler, "ets"), "combines past predictions that cannot be restarted"),
        (hasattr(scheduler, "derivatives"), "combines past predictions that cannot be restarted"),
        (arguments[:3] != ["model_output", "timestep", "sample"], "steps with other arguments"),
        ("r_timestep" in arguments, "predicts the mean velocity over a step"),
        ("sigma_data" in config, "preconditions its network (EDM, consistency, SCM)"),
        (config.get("invert_sigmas"), "inverts its sigmas"),
        (config.get("stages", 1) != 1, "denoises in stages of different sizes"),
        (config.get("stochastic_sampling"), "draws noise in its own steps"),
        (hasattr(scheduler, "tau_func"), "draws noise in its own steps"),
        (
            config.get("clip_sample") and "clip_sample" in type(scheduler).step.__code__.co_names,
            "clips the clean latents (clip_sample)",
        ),
        (config.get("thresholding"), "clips the clean latents (thresholding)"),
    ):
        if is_refused:
            raise ModelError(f"{name} {reason}; its steps cannot be recorded")
    prediction_type(scheduler)


def step_levels(scheduler: Any) -> tuple[Levels, Levels]:
    """Noise levels before and after each of the N steps of the current timesteps.

    In the coordinates of the ``sample`` of the scheduler's step: those of a DDIM are variance
    preserving, those of an Euler scheduler have ``alpha`` 1, those of a flow sum to 1.
    The second of a step is the first of the next, except for DDIM, whose stride does not follow
    its timesteps where ``num_train_timesteps`` is no multiple of N.

    Raises:
        ModelError: The levels cannot be known, with the reason.
    """
    check_scheduler(scheduler)
    name, n = type(scheduler).__name__, len(scheduler.timesteps)
    if not (hasattr(scheduler, "sigmas") or hasattr(scheduler, "alphas_cumprod")):
        raise ModelError(f"{name} has neither sigmas nor alphas_cumprod; its levels are unknown")
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise ModelError(f"{name} has no timesteps yet; call set_timesteps first")
    if len(scheduler.timesteps.unique()) < n:
        raise ModelError(f"{name} repeats timesteps; its steps cannot be recorded")
    if hasattr(scheduler, "sigmas"):
        found = _levels_of_sigmas(scheduler)
        before, after = Levels(*(x[:-1] for x in found)), Levels(*(x[1:] for x in found))
    else:
        before, after = _levels_of_alphas(scheduler)
    noisy, less_noisy = before.sigma / before.alpha, after.sigma / after.alpha
    if not ((less_noisy <= noisy).all() and (noisy[1:] <= noisy[:-1]).all()):
        raise ModelError(f"{name} does not denoise in every step; its steps cannot be recorded")
    return before, after


def _levels_of_sigmas(scheduler: Any) -> Levels:
    """Levels at all N + 1 sigmas, by the scheduler's own formula."""
    name, n = type(scheduler).__name__, len(scheduler.timesteps)
    sigmas = scheduler.sigmas.cpu().double()
    if len(sigmas) != n + 1:
        raise ModelError(f"{name} has {len(sigmas)} sigmas for {n} timesteps")
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return Levels(*scheduler._sigma_to_alpha_sigma_t(sigmas))
    # At the last sigma there is no timestep, so the sigmas are numbered in place of timesteps.
    found = added_noise(scheduler, torch.arange(n + 1, dtype=torch.float64))
    at_timesteps = added_noise(scheduler, scheduler.timesteps.cpu())
    if not all(torch.allclose(a[:-1], b) for a, b in zip(found, at_timesteps, strict=True)):
        raise ModelError(f"{name} adds noise by the timestep, not by its sigmas")
    return found


def added_noise(scheduler: Any, timesteps: Tensor) -> Levels:
    """Levels at which a scheduler adds noise, as if it had the given timesteps.

    Raises:
        ModelError: It adds none.
    """
    probe = copy.copy(scheduler)
    probe.timesteps, probe._begin_index, probe._step_index = timesteps, None, None
    zeros = torch.zeros(len(timesteps), dtype=torch.float64)
    ones = torch.ones_like(zeros)
    if hasattr(probe, "scale_noise"):
        return Levels(
            probe.scale_noise(ones, timesteps, zeros), probe.scale_noise(zeros, timesteps, ones)
        )
    add_noise = getattr(probe, "add_noise", None)
    if add_noise is None or len(inspect.signature(add_noise).parameters) != 3:
        name = type(scheduler).__name__
        raise ModelError(f"{name} has no add_noise or scale_noise; its levels are unknown")
    return Levels(add_noise(ones, zeros, timesteps), add_noise(zeros, ones, timesteps))


def _levels_of_alphas(scheduler: Any) -> tuple[Levels, Levels]:
    """Levels of a variance-preserving scheduler without sigmas, by its integer timesteps."""
    powers, final = scheduler.alphas_cumprod, getattr(scheduler, "final_alpha_cumprod", 1.0)
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    previous = getattr(scheduler, "previous_timestep", lambda timestep: timestep - stride)
    steps = scheduler.timesteps.cpu()
    after = [int(previous(timestep)) for timestep in steps]
    powers_before = powers[steps.long()].double().cpu()
    powers_after = torch.tensor(
        [float(powers[t] if t >= 0 else final) for t in after], dtype=torch.float64
    )
    before, after = (
        Levels(power.sqrt(), (1 - power).sqrt()) for power in (powers_before, powers_after)
    )
    return before, after


# Multistep solvers and stochastic samplers, and a deterministic single-step scheduler of the same
# configuration that diffusers counts as compatible (CogVideoX: with the same arguments).
_REPLACEMENTS = {
    **dict.fromkeys(("PNDM", "DDPM", "DDPMParallel"), "DDIM"),
    **dict.fromkeys(
        ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "EulerAncestralDiscrete"),
        "EulerDiscrete",
    ),
    **dict.fromkeys(("LMSDiscrete", "DPMSolverSDE"), "EulerDiscrete"),
    "CogVideoXDPM": "CogVideoXDDIM",
    "LTXEulerAncestralRF": "FlowMatchEulerDiscrete",
}


def stochastic_scheduler(scheduler: Any) -> Any:
    """A scheduler that `record_steps` takes: the given, or a compatible one in its place.

    Schedulers that draw noise themselves are replaced too, by the deterministic sampler of the
    same model, so that all randomness of a sample is in its recorded steps.

    Raises:
        ModelError: There is none, with the reason.
    """
    import diffusers

    name = _REPLACEMENTS.get(type(scheduler).__name__.removesuffix("Scheduler"))
    if name is not None:
        kind = getattr(diffusers, f"{name}Scheduler")
        ours, theirs = (
            inspect.signature(one.__init__).parameters for one in (kind, type(scheduler))
        )
        # from_config takes the new class's default for each option that was left at the default.
        options = {key: scheduler.config[key] for key in ours if key in theirs and key != "self"}
        if "clip_sample" in ours and "clip_sample" not in theirs:
            options["clip_sample"] = False
        scheduler = kind.from_config(scheduler.config, **options)
    check_scheduler(scheduler)
    return scheduler
