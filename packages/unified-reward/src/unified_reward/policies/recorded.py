"""Recorded sampling: stochastic steps of any pipeline, repeated with gradients.

The pipeline runs unmodified. Inside a window its scheduler's steps are stochastic, and the calls of
its networks that lead to them are kept, so that the density of a step can be computed again under
other weights: what GRPO needs (Flow-GRPO, arXiv:2505.05470).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.samples import Image, Video
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.layouts import Mixture, close, explain, split_outputs
from unified_reward.policies.noise_levels import stochastic_scheduler
from unified_reward.policies.observation import Call, Step, networks, step_of, watching
from unified_reward.policies.step_rules import RuleName, log_prob
from unified_reward.policies.stochastic_steps import RecordedStep, record_steps


_TOLERANCE = 1e-2
"""Largest difference of the log-density of a step and its repetition, in nats per element."""


def repeat_prediction(step: Step, mixture: Mixture, parts: Mapping[str, nn.Module]) -> Tensor:
    """Prediction of a step by networks of these names, called as they were."""
    calls = [call._replace(output=parts[call.network](**call.arguments)[0]) for call in step.calls]
    return mixture.mix(split_outputs(step._replace(calls=calls)), step.sample.shape)


@dataclass(frozen=True, eq=False)
class RepeatableStep:
    """A stochastic step of B samples, with the calls of the networks that lead to it."""

    step: RecordedStep
    calls: tuple[Call, ...]
    """Calls without their outputs."""
    mixture: Mixture
    """Makes the prediction from the outputs, with guidance."""

    def prediction(self, parts: Mapping[str, nn.Module]) -> Tensor:
        """Prediction of the networks, by the names of their components; with gradients."""
        step = self.step
        repeated = Step(self.calls, step.timestep, step.sample, step.prediction)
        return repeat_prediction(repeated, self.mixture, parts)

    def log_prob(self, parts: Mapping[str, nn.Module]) -> Tensor:
        """Log-density of the step that was taken, under the networks as they are now.

        Returns:
            Mean over the elements of each sample, in nats. Shape (B,), float32.
        """
        mean, std = self.step.transition(self.prediction(parts))
        return log_prob(self.step.next_sample, mean, std)


@dataclass(frozen=True, eq=False)
class Rollout:
    """Samples of a prompt, and the stochastic steps that they were made by."""

    samples: list[Image | Video | None]
    """None where a safety checker withheld it."""
    latents: Tensor
    """Latents after the last step, shape (B, ...)."""
    steps: list[RepeatableStep]


@torch.no_grad()
def sample_latents(
    policy: DiffusionPolicy,
    prompt: str,
    context: Sequence[Image | Video],
    seeds: Sequence[int],
) -> Rollout:
    """Sample in one batch by the policy's own scheduler, of any kind, and keep the last latents.

    Args:
        policy: The policy.
        prompt: A caption, or the instruction of an edit.
        context: The source image of an edit; empty for generation.
        seeds: Seeds of the samples.

    Raises:
        ModelError: The pipeline does not call the step of its scheduler.
        ValueError: As `DiffusionPolicy.sample`.
    """
    tape = _Tape((), (), ())
    with watching(policy.pipeline, tape.calls.append, tape.on_step):
        samples = policy.generate(prompt, context, seeds)
    return Rollout(samples, tape.last(policy.name), [])


class StochasticSampler:
    """Samples of a policy with stochastic steps inside a window."""

    def __init__(
        self, policy: DiffusionPolicy, rule: RuleName = "ddim", strength: float | None = None
    ) -> None:
        """Check that the scheduler has a stochastic form.

        Args:
            policy: Its pipeline gets a compatible scheduler while it samples where its own has no
                stochastic form, as PNDM.
            rule: Rule of the steps, see `step_rules.StepRule`.
            strength: Strength of the rule; None for the published one.

        Raises:
            ModelError: It has none; the message says why.
        """
        self.policy, self._strength = policy, strength
        self._rule: RuleName = rule
        self._scheduler = stochastic_scheduler(policy.pipeline.scheduler)
        self._is_proven = False

    @torch.no_grad()
    def sample(
        self,
        prompt: str,
        context: Sequence[Image | Video],
        seeds: Sequence[int],
        window: Collection[int],
        noise_seeds: Sequence[int] | None = None,
    ) -> Rollout:
        """Sample in one batch. The first time, all stochastic steps are repeated and compared.

        Args:
            prompt: A caption, or the instruction of an edit.
            context: The source image of an edit; empty for generation.
            seeds: Seeds of the first noise of the samples.
            window: Indices of the stochastic steps; the last of all steps is never stochastic.
            noise_seeds: Seeds of the noise of the steps; None for some that follow from ``seeds``.

        Raises:
            ModelError: A step cannot be repeated; the message says why.
            ValueError: As `DiffusionPolicy.sample`.
        """
        pipeline, name = self.policy.pipeline, self.policy.name
        if noise_seeds is None:
            noise_seeds = [int(np.random.SeedSequence([s, 1]).generate_state(1)[0]) for s in seeds]
        generators = [torch.Generator().manual_seed(seed) for seed in noise_seeds]
        own, pipeline.scheduler = pipeline.scheduler, self._scheduler
        recording = record_steps(self._scheduler, window, generators, self._rule, self._strength)
        try:
            with recording as recorded:
                tape = _Tape(self.policy.guidance_scales, window, recorded)
                with watching(pipeline, tape.calls.append, tape.on_step):
                    samples = self.policy.generate(prompt, context, seeds)
        except (LookupError, TypeError, AttributeError, AssertionError) as error:
            raise ModelError(
                f"{name} cannot be sampled with recorded steps: {one_line(error)}"
            ) from error
        finally:
            pipeline.scheduler = own
        latents = tape.last(name)
        if not self._is_proven:
            for step in tape.steps:
                _prove(step, networks(pipeline), name)
            self._is_proven = bool(tape.steps)
        return Rollout(samples, latents, tape.steps)


class _Tape:
    """Steps of a run and the calls that lead to each."""

    def __init__(
        self,
        guidance: Sequence[float],
        window: Collection[int],
        recorded: Sequence[RecordedStep],
    ) -> None:
        self.calls: list[Call] = []
        self.steps: list[RepeatableStep] = []
        self.latents: Tensor | None = None
        self._guidance, self._window, self._recorded = guidance, window, recorded
        self._taken = 0

    def last(self, name: str) -> Tensor:
        """Latents after the last step of the policy of this name."""
        if self.latents is None:
            raise ModelError(f"{name} does not call the step of its scheduler")
        return self.latents

    def on_step(self, take: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Take a step of the scheduler, and keep what repeats it where it was stochastic."""
        n, step = len(self._recorded), step_of(self.calls, arguments)
        self.calls.clear()
        mixture = explain(step, self._guidance) if self._taken in self._window else None
        if mixture:
            # Computed as when the step is repeated, so that the ratio is 1 to the last bit.
            mixed = mixture.mix(split_outputs(step), step.sample.shape)
            arguments = {**arguments, "model_output": mixed.to(step.prediction)}
        result = take(**arguments)
        self._taken, self.latents = self._taken + 1, result[0]
        if mixture and len(self._recorded) > n:
            kept = tuple(call._replace(output=None) for call in step.calls)
            self.steps.append(RepeatableStep(self._recorded[-1], kept, mixture))
        return result


def _prove(step: RepeatableStep, parts: Mapping[str, nn.Module], name: str) -> None:
    taken, prediction = step.step, step.prediction(parts)
    is_same = close(prediction, taken.prediction)
    if is_same and taken.std:
        # Half precision tells predictions apart by little, and their densities by more.
        before, after = (
            log_prob(taken.next_sample, mean, taken.std)
            for mean in (taken.mean, taken.transition(prediction).mean)
        )
        is_same = bool(((after - before).abs() <= _TOLERANCE).all())
    if not is_same:
        raise ModelError(
            f"{name} cannot be trained by its recorded steps: repeated, step {taken.index} "
            "predicts something else"
        )
