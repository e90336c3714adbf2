"""Recorded sampling: stochastic steps of any pipeline, repeated with gradients.

The pipeline runs unmodified. Inside a window its scheduler's steps are stochastic, and the calls of
its networks that lead to them are kept, so that the density of a step can be computed again under
other weights: what GRPO needs (Flow-GRPO, arXiv:2505.05470).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unified_reward.core.samples import Image, Video
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.layouts import Mixture, close, explain, split_outputs
from unified_reward.policies.observation import Call, Step, networks, watching
from unified_reward.policies.step_rules import RuleName, log_prob
from unified_reward.policies.stochastic_steps import (
    RecordedStep,
    record_steps,
    stochastic_scheduler,
)


@dataclass(frozen=True, eq=False)
class RepeatableStep:
    """A stochastic step of B samples, with the calls of the networks that lead to it."""

    step: RecordedStep
    calls: tuple[Call, ...]
    """Calls without their outputs."""
    mixture: Mixture
    """How the outputs become the prediction, with guidance."""

    def prediction(self, parts: Mapping[str, nn.Module]) -> Tensor:
        """Prediction of the networks, by the names of their components; with gradients."""
        calls = [
            call._replace(output=parts[call.network](**call.arguments)[0]) for call in self.calls
        ]
        step = self.step
        repeated = Step(calls, step.timestep, step.sample, step.prediction)
        return self.mixture.mix(split_outputs(repeated), step.sample.shape)

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
def record_samples(
    policy: DiffusionPolicy,
    prompt: str,
    context: Sequence[Image | Video],
    seeds: Sequence[int],
    *,
    window: Collection[int],
    rule: RuleName = "ddim",
    strength: float | None = None,
    noise_seeds: Sequence[int] | None = None,
) -> Rollout:
    """Sample in one batch, with stochastic steps inside a window.

    Args:
        policy: A policy; its pipeline gets a compatible scheduler while it samples where its own
            has no stochastic form.
        prompt: A caption, or the instruction of an edit.
        context: The source image of an edit; empty for generation.
        seeds: Seeds of the first noise of the samples.
        window: Indices of the stochastic steps; the last step of all is never stochastic.
        rule: Rule of the step, see `step_rules.StepRule`.
        strength: Strength of the rule; None for the published one.
        noise_seeds: Seeds of the noise of the steps; None for others that follow from ``seeds``.

    Raises:
        ModelError: The scheduler has no stochastic form, or a step cannot be repeated.
        ValueError: As `DiffusionPolicy.sample`.
    """
    pipeline = policy.pipeline
    if noise_seeds is None:
        noise_seeds = [int(np.random.SeedSequence([s, 1]).generate_state(1)[0]) for s in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in noise_seeds]
    steps, calls, latents = list[RepeatableStep](), list[Call](), list[Tensor]()

    def on_step(take: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        taken = Step(tuple(calls), *(arguments[k] for k in ("timestep", "sample", "model_output")))
        calls.clear()
        n = len(recorded)
        mixture = explain(taken, policy.guidance_scales) if is_inside() else None
        if mixture:
            mixed = mixture.mix(split_outputs(taken), taken.sample.shape)
            arguments = {**arguments, "model_output": mixed.to(taken.prediction)}
        result = take(**arguments)
        latents[:] = [result[0]]
        if mixture and len(recorded) > n:
            kept = tuple(call._replace(output=None) for call in taken.calls)
            steps.append(RepeatableStep(recorded[-1], kept, mixture))
        return result

    def is_inside() -> bool:
        return bool(window)

    with _scheduler(pipeline, is_stochastic=bool(window)) as scheduler:
        with record_steps(scheduler, window, generators, rule, strength) as recorded:
            with watching(pipeline, calls.append, on_step):
                samples = policy.generate(prompt, context, seeds)
    return Rollout(samples, latents[0], steps)
