"""Stochastic steps of diffusers schedulers inside a window, recorded for policy gradients.

Every deterministic first-order step of a scheduler is one formula in the factor ``alpha`` of the
clean latents and the standard deviation ``sigma`` of the noise. A step rule adds noise to it, so
that the next latents are Gaussian with a known density. Knows schedulers; knows no pipelines, no
networks and no rewards.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from unified_reward.core.errors import ConfigError, ModelError


Prediction = Literal["epsilon", "v_prediction", "flow"]
"""Prediction type: the noise, the velocity ``v``, or the velocity of a flow."""
RuleName = Literal["ddim", "flow", "cps"]

DEFAULT_STRENGTH: Mapping[RuleName, float] = {"ddim": 1.0, "flow": 0.7, "cps": 0.8}
"""``eta`` of ``ddim`` and noise level ``a`` of ``flow`` and ``cps``, as published."""
TOLERANCE = 1e-4
"""Largest relative difference between a scheduler's first-order step and the formula here."""


class Level(NamedTuple):
    """Noise level of latents ``alpha x_0 + sigma e``, in the coordinates of the scheduler."""

    alpha: float
    sigma: float


class Levels(NamedTuple):
    """Noise levels of several latents, each of shape (N,), float64."""

    alpha: Tensor
    sigma: Tensor

    def at(self, index: int) -> Level:
        """Level of the given index."""
        return Level(self.alpha[index].item(), self.sigma[index].item())


@dataclass(frozen=True)
class StepRule:
    """Rule of a stochastic step. Strength 0 is the deterministic first-order step.

    ``ddim``: Song et al. 2021, arXiv:2010.02502, Eq. 16; strength is its ``eta``, in [0, 1].
    ``flow``: Flow-GRPO, arXiv:2505.05470, Eq. 12; strength is its ``a``, >= 0.
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


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A step inside the window: B samples, and all that recomputes their density."""

    index: int
    """Index into the timesteps of the scheduler."""
    timestep: Any
    """Argument of the scheduler's step."""
    rule: StepRule
    prediction_type: Prediction
    level: Level
    next_level: Level
    sample: Tensor
    """Latents before the step, shape (B, ...), in the scheduler's coordinates."""
    prediction: Tensor
    """Argument ``model_output`` of the scheduler's step, of the same shape."""
    next_sample: Tensor
    """Latents after the step, as the pipeline got them (rounded to their data type)."""
    mean: Tensor
    std: float

    def transition(self, prediction: Tensor) -> Transition:
        """Gaussian of the next latents for another prediction of the same step."""
        kind = self.prediction_type
        return step(self.rule, kind, self.sample, prediction, self.level, self.next_level)


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
    kinds: dict[str, Prediction] = {
        **{"epsilon": "epsilon", "v_prediction": "v_prediction"},
        **{"flow": "flow", "flow_prediction": "flow"},
    }
    if name not in kinds:
        raise ModelError(f"{type(scheduler).__name__}: a network that predicts {name!r}")
    return kinds[name]


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
        (config.get("stochastic_sampling"), "draws noise in its own steps"),
        (hasattr(scheduler, "tau_func"), "draws noise in its own steps"),
        (config.get("clip_sample"), "clips the clean latents (clip_sample)"),
        (config.get("thresholding"), "clips the clean latents (thresholding)"),
    ):
        if is_refused:
            raise ModelError(f"{name} {reason}; its steps cannot be recorded")
    prediction_type(scheduler)


def step_levels(scheduler: Any) -> tuple[Levels, Levels]:
    """Noise levels before and after each of the N steps of the current timesteps.

    The second of a step is the first of the next, except for DDIM, whose stride does not follow
    its timesteps where ``num_train_timesteps`` is no multiple of N.

    Raises:
        ModelError: The levels cannot be known, with the reason.
    """
    check_scheduler(scheduler)
    name, n = type(scheduler).__name__, len(scheduler.timesteps)
    if scheduler.num_inference_steps is None:
        raise ModelError(f"{name} has no timesteps yet; call set_timesteps first")
    if len(scheduler.timesteps.unique()) < n:
        raise ModelError(f"{name} repeats timesteps; its steps cannot be recorded")
    if hasattr(scheduler, "sigmas"):
        found = _levels_of_sigmas(scheduler)
        before, after = Levels(*(x[:-1] for x in found)), Levels(*(x[1:] for x in found))
    elif hasattr(scheduler, "alphas_cumprod"):
        before, after = _levels_of_alphas(scheduler)
    else:
        raise ModelError(f"{name} has neither sigmas nor alphas_cumprod; its levels are unknown")
    if not (after.sigma * before.alpha < before.sigma * after.alpha).all():
        raise ModelError(f"{name} does not denoise in every step; its steps cannot be recorded")
    return before, after


def levels(scheduler: Any) -> Levels:
    """Noise levels before each of the N steps, and after the last, each of shape (N + 1,).

    In the coordinates of the ``sample`` of the scheduler's step: those of a DDIM are variance
    preserving, those of an Euler scheduler have ``alpha`` 1, those of a flow sum to 1.

    Raises:
        ModelError: The levels cannot be known, with the reason.
    """
    before, after = step_levels(scheduler)
    alpha, sigma = (torch.cat([a, b[-1:]]) for a, b in zip(before, after, strict=True))
    return Levels(alpha, sigma)


def _levels_of_sigmas(scheduler: Any) -> Levels:
    """Levels at all N + 1 sigmas, by the scheduler's own formula."""
    name, n = type(scheduler).__name__, len(scheduler.timesteps)
    sigmas = scheduler.sigmas.cpu().double()
    if len(sigmas) != n + 1:
        raise ModelError(f"{name} has {len(sigmas)} sigmas for {n} timesteps")
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return Levels(*scheduler._sigma_to_alpha_sigma_t(sigmas))
    # At the last sigma there is no timestep, so the sigmas are numbered in place of timesteps.
    found = _add_noise_levels(scheduler, torch.arange(n + 1, dtype=torch.float64))
    at_timesteps = _add_noise_levels(scheduler, scheduler.timesteps.cpu())
    if not all(torch.allclose(a[:-1], b) for a, b in zip(found, at_timesteps, strict=True)):
        raise ModelError(f"{name} adds noise by the timestep, not by its sigmas")
    return found


def _add_noise_levels(scheduler: Any, timesteps: Tensor) -> Levels:
    """Noised ones and zeros, as if the scheduler had the given timesteps."""
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
        # DDIM clips by default; a scheduler without the option does not.
        unclipped = {key: False for key in ("clip_sample",) if key in ours and key not in theirs}
        scheduler = kind.from_config(scheduler.config, **unclipped)
    check_scheduler(scheduler)
    return scheduler


@contextmanager
def record_steps(
    scheduler: Any,
    window: Collection[int],
    generators: Sequence[torch.Generator],
    rule: RuleName = "ddim",
    strength: float | None = None,
) -> Iterator[list[RecordedStep]]:
    """Make the steps of a scheduler inside a window stochastic, and record them.

    Outside the window the scheduler's own step runs untouched; the last step is never stochastic
    and never recorded. The history of a multistep solver restarts at first order after each
    recorded step. A deep copy of the scheduler, as pipelines with sound make, takes its own steps.

    Args:
        scheduler: Scheduler of a pipeline, from `stochastic_scheduler`; restored on exit.
        window: Indices into its timesteps.
        generators: Source of the noise of each sample of the batch, on the CPU, so that a sample
            does not depend on its batch.
        rule: Step rule.
        strength: Strength of the rule; None for `DEFAULT_STRENGTH`.

    Yields:
        Steps recorded so far, in order of time.

    Raises:
        ModelError: The scheduler is refused; from the pipeline's call also where its own first
            step is not the first-order step of its noise levels and prediction type.
    """
    check_scheduler(scheduler)
    default = DEFAULT_STRENGTH.get(rule, 0.0)
    chosen = StepRule(rule, default if strength is None else strength)
    if rule == "flow" and prediction_type(scheduler) != "flow":
        raise ModelError("the step rule flow needs a flow model; use ddim or cps")
    previous = vars(scheduler).get("step")
    recorder = _Recorder(scheduler, frozenset(window), chosen, generators)
    scheduler.step = recorder
    try:
        yield recorder.steps
    finally:
        del scheduler.step
        if previous is not None:
            scheduler.step = previous


class _Recorder:
    """Takes the place of a scheduler's step."""

    def __init__(
        self,
        scheduler: Any,
        window: frozenset[int],
        rule: StepRule,
        generators: Sequence[torch.Generator],
    ) -> None:
        # Pipelines look for eta and generator in the signature, which follows __wrapped__.
        functools.update_wrapper(self, scheduler.step)
        self.steps: list[RecordedStep] = []
        self._scheduler, self._own_step = scheduler, scheduler.step
        self._window, self._rule, self._generators = window, rule, generators
        self._timesteps: Any = None
        self._last = -1

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._scheduler))
        return self if copied is None else MethodType(type(copied).step, copied)

    def __call__(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._window:
            return self._own_step(model_output, timestep, sample, *args, **kwargs)
        index = self._index(timestep)
        is_inside = index in self._window and index + 1 < len(self._timesteps)
        if is_inside or index <= self._last or self._last < 0:
            self._check(index, model_output, timestep, sample, *args, **kwargs)
        self._last = index
        if not is_inside:
            return self._own_step(model_output, timestep, sample, *args, **kwargs)
        # The own step moves the counters and decides on the type of the result.
        _restart(self._scheduler)
        output = self._own_step(model_output, timestep, sample, *args, **kwargs)
        _restart(self._scheduler)
        next_sample = self._record(index, timestep, sample, model_output, output[0].dtype)
        if isinstance(output, tuple):
            return (next_sample, *output[1:])
        output.prev_sample = next_sample
        return output

    def _index(self, timestep: Any) -> int:
        if self._scheduler.timesteps is not self._timesteps:
            self._before, self._after = step_levels(self._scheduler)
            self._timesteps, self._last = self._scheduler.timesteps, -1
            outside = [index for index in self._window if not 0 <= index < len(self._timesteps)]
            if outside:
                raise ConfigError(f"the window has {min(outside)}; steps: {len(self._timesteps)}")
        found = (self._timesteps.cpu().double() == float(timestep)).nonzero().flatten().tolist()
        if len(found) != 1:
            raise ModelError(f"timestep {float(timestep)} is not a timestep of the scheduler")
        return found[0]

    def _record(
        self, index: int, timestep: Any, sample: Tensor, prediction: Tensor, dtype: torch.dtype
    ) -> Tensor:
        if len(self._generators) != len(sample):
            raise ModelError(f"{len(self._generators)} generators for a batch of {len(sample)}")
        kind = prediction_type(self._scheduler)
        level, after = self._before.at(index), self._after.at(index)
        mean, std = step(self._rule, kind, sample, prediction, level, after)
        noise = torch.stack(
            [torch.randn(sample.shape[1:], generator=one) for one in self._generators]
        )
        next_sample = (mean + std * noise.to(mean)).to(dtype)
        self.steps.append(
            RecordedStep(
                index=index,
                timestep=timestep,
                rule=self._rule,
                prediction_type=kind,
                level=level,
                next_level=after,
                sample=sample.detach().clone(),
                prediction=prediction.detach().clone(),
                next_sample=next_sample.detach().clone(),
                mean=mean.detach(),
                std=std,
            )
        )
        return next_sample

    def _check(
        self,
        index: int,
        prediction: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Compare the scheduler's own first-order step, in float32, with the formula."""
        name = type(self._scheduler).__name__
        if prediction.shape != sample.shape:
            raise ModelError(f"{name}: prediction {[*prediction.shape]}, sample {[*sample.shape]}")
        prediction, sample = prediction.detach().float(), sample.detach().float()

        def own_step() -> Tensor:
            probe = copy.copy(self._scheduler)
            _restart(probe)
            return type(probe).step(probe, prediction, timestep, sample, *args, **kwargs)[0]

        kind = prediction_type(self._scheduler)
        level, after = self._before.at(index), self._after.at(index)
        formula = step(DETERMINISTIC, kind, sample, prediction, level, after).mean
        error = ((own_step() - formula).norm() / formula.norm()).item()
        if not error <= TOLERANCE:
            is_random = not torch.equal(own_step(), own_step())
            reason = "draws noise in its own steps" if is_random else "steps differently"
            raise ModelError(
                f"{name} {reason}: step {index} is {error:.1e} from the first-order step of "
                f"{kind} between {level} and {after}"
            )


def _restart(scheduler: Any) -> None:
    """Forget past predictions of a multistep solver, so that its next step is of first order."""
    for name in ("model_outputs", "timestep_list"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [None] * len(getattr(scheduler, name)))
    for name, start in (("lower_order_nums", 0), ("last_sample", None), ("sample", None)):
        if hasattr(scheduler, name):
            setattr(scheduler, name, start)
