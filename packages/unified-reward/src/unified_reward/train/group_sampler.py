"""Groups of samples of prompts, each decided by the seed and the number of the group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator

from unified_reward import policies
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.last_step import LastStepSampler
from unified_reward.policies.recorded import Rollout, StochasticSampler, sample_latents
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.loops import shuffled_indices


HELD_OUT_SAMPLES = 4
"""Samples of a held-out prompt."""


class GroupSampler:
    """Samples of the groups of a step."""

    def __init__(
        self,
        maker: DiffusionPolicy,
        prompts: Sequence[Example],
        config: DiffusionGRPO,
        accelerator: Accelerator,
    ) -> None:
        self.config = config
        self._maker, self._prompts, self._accelerator = maker, prompts, accelerator
        self._trained = maker.with_options(config.rollout)
        self._stochastic: StochasticSampler | None = None
        self._last = LastStepSampler(self._trained) if config.algorithm == "draft" else None
        self.window_range = (0, 0)
        """First and last index of the steps that the window may hold."""
        if config.algorithm == "grpo":
            self._stochastic = StochasticSampler(self._trained, config.rule, config.strength)
            self.window_range = self._check_window(self._trained)

    def _check_window(self, maker: DiffusionPolicy) -> tuple[int, int]:
        """First and last index of the steps that the window may hold.

        Raises:
            ConfigError: The window does not fit.
        """
        config = self.config
        steps = maker.steps
        if steps is None:
            raise ConfigError(f"give the number of steps of {maker.name}: rollout.steps")
        half = max(config.window, steps // 2) - 1
        low, high = config.window_range or (0, half)
        # The last step has no noise.
        if not 0 <= low <= high <= steps - 2 or high - low + 1 < config.window:
            raise ConfigError(
                f"a window of {config.window} steps does not lie in {low} to {high} of {steps} "
                "steps, of which the last is never stochastic"
            )
        return low, high

    def window(self, step: int) -> range:
        """Stochastic steps of a rollout, shared by its groups."""
        config = self.config
        generator = np.random.default_rng([config.optim.seed, step, 2])
        low, high = self.window_range
        start = int(generator.integers(low, high - config.window + 1, endpoint=True))
        return range(start, start + config.window)

    def numbers(self, step: int) -> range:
        """Numbers of the groups of a step."""
        n = self.config.prompts_per_step
        return range(step * n, (step + 1) * n)

    def sample(self, step: int, number: int) -> list[Rollout]:
        """Sample a group of a step, from 0, in batches.

        Raises:
            MediaError: The source of an edit cannot be opened.
            ValueError: The pipeline refuses the prompt.
            ModelError: The pipeline broke.
        """
        prompt, config = self.prompt(number), self.config
        seeds = policies.seeds(prompt.id, config.group, self._seed(number))
        size = config.optim.batch_size
        context = _context(prompt)
        with self._accelerator.autocast():
            return [
                self._sample(step, prompt.prompt, context, seeds[i : i + size])
                for i in range(0, len(seeds), size)
            ]

    def _sample(
        self, step: int, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> Rollout:
        if self._last:
            return self._last.sample(prompt, context, seeds)
        if self._stochastic is None:
            return sample_latents(self._trained, prompt, context, seeds)
        return self._stochastic.sample(prompt, context, seeds, self.window(step))

    def prompt(self, number: int) -> Example:
        """Prompt of a group; each comes once before any comes again."""
        (index,) = shuffled_indices(len(self._prompts), [number], self.config.optim.seed)
        return self._prompts[index]

    def _seed(self, number: int) -> int:
        sequence = np.random.SeedSequence([self.config.optim.seed, number, 3])
        return int(sequence.generate_state(1, np.uint64)[0])

    def sample_held_out(self, prompt: Example) -> list[Image | Video | None]:
        """Sample a prompt without stochastic steps, always from the same seeds."""
        seeds = policies.seeds(prompt.id, HELD_OUT_SAMPLES, self.config.optim.seed)
        size = self.config.optim.batch_size
        samples: list[Image | Video | None] = []
        with self._accelerator.autocast():
            for i in range(0, len(seeds), size):
                part = seeds[i : i + size]
                samples += self._maker.sample(prompt.prompt, _context(prompt), part)
        return samples


def _context(prompt: Example) -> tuple[Image | Video, ...]:
    return prompt.context if prompt.task is Task.IMAGE_EDITING else ()
