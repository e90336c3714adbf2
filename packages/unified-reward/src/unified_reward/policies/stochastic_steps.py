"""Stochastic steps of a diffusers scheduler inside a window, recorded for policy gradients.

Takes the place of the step of one scheduler while a pipeline runs, which is not changed. Knows
neither pipelines, networks nor rewards.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.policies.noise_levels import check_scheduler, prediction_type, step_levels
from unified_reward.policies.step_rules import (
    DEFAULT_STRENGTH,
    DETERMINISTIC,
    Level,
    Prediction,
    RuleName,
    StepRule,
    Transition,
    step,
)


TOLERANCE = 1e-4
"""Largest relative difference between a scheduler's first-order step and the formula here."""


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

    @property
    def duration(self) -> float:
        """``-dt`` of a step of the rule ``flow``, > 0; 1 for the other rules, which have none."""
        return self.level.sigma - self.next_level.sigma if self.rule.name == "flow" else 1.0

    def transition(self, prediction: Tensor) -> Transition:
        """Gaussian of the next latents for another prediction of the same step."""
        kind = self.prediction_type
        return step(self.rule, kind, self.sample, prediction, self.level, self.next_level)


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
        self._is_checked = False

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
        if is_inside or not self._is_checked:
            self._check(index, model_output, timestep, sample, *args, **kwargs)
            self._is_checked = True
        if not is_inside:
            return self._own_step(model_output, timestep, sample, *args, **kwargs)
        # The own step moves the counters and decides on the type of the result.
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
            self._timesteps, self._is_checked = self._scheduler.timesteps, False
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
        error, size = (own_step() - formula).norm().item(), formula.norm().item()
        if not error <= TOLERANCE * size:
            is_random = not torch.equal(own_step(), own_step())
            reason = "draws noise in its own steps" if is_random else "steps differently"
            raise ModelError(
                f"{name} {reason}: step {index} is {error:.1e} from the first-order step (of norm "
                f"{size:.1e}) of {kind} between {level} and {after}"
            )


def _restart(scheduler: Any) -> None:
    """Forget past predictions of a multistep solver, so that its next step is of first order."""
    for name in ("model_outputs", "timestep_list"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [None] * len(getattr(scheduler, name)))
    for name, start in (("lower_order_nums", 0), ("last_sample", None)):
        if hasattr(scheduler, name):
            setattr(scheduler, name, start)
