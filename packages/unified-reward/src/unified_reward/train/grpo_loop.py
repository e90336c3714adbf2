"""Training loop of GRPO and DiffusionNFT: learn from scored groups; the history of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor

from unified_reward.core.errors import ModelError, ServerError
from unified_reward.train.group_collector import GroupCollector, ScoredGroup, figures_of, mean
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.loops import TrainState
from unified_reward.train.optim import loss_progress, non_finite_error
from unified_reward.train.policy_updates import (
    AdaptedNetworks,
    Group,
    GRPOUpdate,
    NFTUpdate,
    Update,
)
from unified_reward.train.processes import Processes
from unified_reward.train.reward_functions import RewardFunctionError
from unified_reward.train.sample_sheets import SampleSheet


_FIGURES = ("loss", "deviation", "clipped", "kl", "norm_ratio")
_LOGGED = (
    *(*_FIGURES, "reward", "spread", "diversity"),
    *("failed", "failed_groups", "constant_groups", "lost_comparisons"),
)
_FAILED_STEPS = 3
"""Steps in a row without a single reward after which a run stops."""


class RewardLoop:
    """Weights, optimiser and history of a run."""

    def __init__(
        self,
        model: AdaptedNetworks,
        collector: GroupCollector,
        config: DiffusionGRPO,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.config = config
        self._model, self._collector, self._accelerator = model, collector, accelerator
        self._processes = Processes(accelerator)
        optim = config.optim
        self._weights = [*model.trained.values()]
        self._optimiser: Any = torch.optim.AdamW(
            self._weights, optim.lr, weight_decay=optim.weight_decay
        )
        self._schedule = get_scheduler(
            "cosine",
            self._optimiser,
            num_warmup_steps=round(optim.steps * optim.warmup),
            num_training_steps=optim.steps,
        )
        self._old: dict[str, Tensor] = {}
        """Weights of the policy that samples, where it is another."""
        if config.algorithm == "nft":
            self._old = {name: each.detach().clone() for name, each in model.trained.items()}
        self._update = self._build_update()
        old = {f"old {name}": weight for name, weight in self._old.items()}
        self.state = TrainState(
            folder, model.trained | old, self._optimiser, self._schedule, (*_LOGGED, "held_out")
        )

    def _build_update(self) -> Update:
        config = self.config
        if config.algorithm == "nft":
            return NFTUpdate(
                self._model,
                self._accelerator,
                self._old,
                config.nft,
                config.optim.seed,
            )
        return GRPOUpdate(
            self._model,
            self._accelerator,
            clip=config.clip,
            beta=config.beta,
            kind=config.ratio,
        )

    def train(self, sheet: SampleSheet) -> dict[str, list[Any]]:
        """Train up to the last step; the figures by step."""
        history = self.state.load(self._accelerator.device)
        try:
            self._run(history, sheet)
        except (ServerError, RewardFunctionError) as error:
            # Rewards come before a step changes anything.
            self._save(history)
            raise type(error)(f"{error}; resume from {self.state.newest()}") from error
        return history

    def _run(self, history: dict[str, list[Any]], sheet: SampleSheet) -> None:
        config, steps = self.config, self.config.optim.steps
        bar = loss_progress()
        with bar if self._processes.is_first else nullcontext():
            task = bar.add_task("learning from rewards", total=steps, loss="")
            for step in range(len(history["loss"]), steps):
                self._measure(step, history)
                figures = self._step(step)
                for name in _LOGGED:
                    history[name].append(figures.get(name))
                self._check_rewards(history)
                reward = figures["reward"]
                text = "" if reward is None else f"reward {reward:.3f}"
                bar.update(task, completed=step + 1, loss=text)
                if config.optim.save_every and (step + 1) % config.optim.save_every == 0:
                    self._save(history)
                if config.samples_every and (step + 1) % config.samples_every == 0:
                    with self._processes.together():
                        if self._processes.is_first:
                            sheet.write(step + 1)
            self._measure(steps, history)

    def _save(self, history: Mapping[str, Sequence[Any]]) -> None:
        with self._processes.together():
            if self._processes.is_first:
                self.state.save(history)

    def _check_rewards(self, history: Mapping[str, Sequence[float]]) -> None:
        """Refuse to go on where no sample has got a reward for some steps."""
        recent = history["failed_groups"][-_FAILED_STEPS:]
        n, step = self.config.prompts_per_step, len(history["loss"])
        if len(recent) == _FAILED_STEPS and min(recent) == n:
            raise ModelError(
                f"no group got rewards in steps {step - _FAILED_STEPS + 1} to {step}; "
                f"the last state is {self.state.newest()}"
            )

    def _step(self, step: int) -> dict[str, float | None]:
        """Sample, score and learn; the figures of the step."""
        with self._model.with_weights(self._old):
            groups, scored = self._collect(step)
        useful = [group for group in groups if group.scores.status == "scored"]
        learned = sum(group.learned for group in scored)
        updates: list[dict[str, float]] = []
        for i in range(self.config.updates if learned else 0):
            found = self._backward(useful, step * self.config.updates + i, learned)
            norm = float(torch.nn.utils.clip_grad_norm_(self._weights, 1.0))
            if not all(map(math.isfinite, (norm, *found.values()))):
                raise non_finite_error("loss or gradient", step + 1, self.state.newest())
            self._optimiser.step()
            self._optimiser.zero_grad()
            updates.append(found)
        if updates:
            self._schedule.step()
            self._follow(step + 1)
        figures = figures_of(scored)
        for name in _FIGURES:
            figures[name] = mean([found.get(name) for found in updates])
        return figures

    def _collect(self, step: int) -> tuple[list[Group], list[ScoredGroup]]:
        """Groups of a step, see `GroupCollector.collect`."""
        update = self._update
        check = update.encode if isinstance(update, NFTUpdate) else lambda _: None
        try:
            return self._collector.collect(step, check)
        except ServerError:
            raise
        except ModelError as error:
            raise ModelError(f"{error}; the last state is {self.state.newest()}") from error

    def _backward(self, groups: Sequence[Group], number: int, learned: int) -> dict[str, float]:
        """Gradients of all processes for their groups, and the means of their figures.

        Args:
            groups: Groups of this process.
            number: Number of the optimiser step, from 0.
            learned: Samples that all processes learn from.
        """
        own = sum(value is not None for group in groups for value in group.scores.advantages)
        with self._processes.together():
            found = self._update.backward(groups, number) if groups else {}
        self._processes.sum_gradients(self._weights, own / learned)
        sums: dict[str, float] = {}
        for n, figures in self._processes.gather([(own, found)]):
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value * (n / learned)
        return sums

    @torch.no_grad()
    def _follow(self, n: int) -> None:
        """Move the old policy towards the trained weights after step n, from 1."""
        decay = min(self.config.nft.decay_rate * n, self.config.nft.decay_limit)
        for name, weight in self._old.items():
            weight.lerp_(self._model.trained[name], 1 - decay)

    def _measure(self, step: int, history: Mapping[str, list[Any]]) -> None:
        """Measure the reward of the held-out prompts after so many steps."""
        is_last = step == self.config.optim.steps
        measured = history["held_out"]
        is_due = step % self.config.held_out_every == 0 or is_last
        if not (self._collector.held_out and is_due) or (measured and measured[-1][0] == step):
            return
        measured.append([step, self._collector.measure()])
