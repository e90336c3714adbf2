"""Training loop of GRPO and DiffusionNFT: learn from scored groups; the history of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor

from unified_reward.core.errors import ModelError, ServerError, one_line
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
from unified_reward.train.reward_gradients import RewardGradients
from unified_reward.train.run_history import RunHistory
from unified_reward.train.sample_sheets import SampleSheet


_FIGURES = ("loss", "deviation", "clipped", "kl", "norm_ratio")
_LOGGED = (
    *(*_FIGURES, "reward", "rewards", "spread", "diversity"),
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
        out: Path,
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
        self._old = self._copied() if config.algorithm == "nft" else {}
        """Weights of the policy that samples, where it is another."""
        self._average = self._copied() if config.ema_decay else {}
        """Moving average of the weights, where there is one."""
        self._update = self._build_update()
        weights = dict(model.trained)
        for kind, others in (("old", self._old), ("average", self._average)):
            weights |= {f"{kind} {name}": weight for name, weight in others.items()}
        self.state = TrainState(
            out / "checkpoints", weights, self._optimiser, self._schedule, (*_LOGGED, "held_out")
        )
        self._rows = RunHistory(out, accelerator, config)

    def _copied(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self._model.trained.items()}

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
        if config.algorithm == "draft":
            rewards = self._collector.rewards
            return RewardGradients(self._model, self._accelerator, rewards, beta=config.beta)
        return GRPOUpdate(
            self._model,
            self._accelerator,
            clip=config.clip,
            beta=config.beta,
            kind=config.ratio,
        )

    def train(self, sheet: SampleSheet, write_page: Callable[[], None]) -> dict[str, list[Any]]:
        """Train up to the last step.

        Args:
            sheet: Samples to look at, every ``samples_every`` steps and before the first.
            write_page: Called in the first process whenever there is more to look at.

        Returns:
            The figures by step, see `row_of`.
        """
        history = self.state.load(self._accelerator.device)
        try:
            self._run(history, sheet, write_page)
        except (ServerError, RewardFunctionError) as error:
            # Rewards come before a step changes anything, or after it is complete.
            self._save(history)
            raise type(error)(f"{error}; resume from {self.state.newest()}") from error
        finally:
            self._rows.finish()
        return history

    def result(self) -> AbstractContextManager[None]:
        """Have the weights in the networks that are measured and written, until the block ends."""
        return self._model.with_weights(self._average)

    def _run(
        self, history: dict[str, list[Any]], sheet: SampleSheet, write_page: Callable[[], None]
    ) -> None:
        config, steps = self.config, self.config.optim.steps
        bar = loss_progress()
        with bar if self._processes.is_first else nullcontext():
            task = bar.add_task("learning from rewards", total=steps, loss="")
            self._measure(history)
            with self._processes.together():
                self._rows.begin(history)
            if not history["loss"]:
                self._show(0, sheet, write_page)
            for step in range(len(history["loss"]), steps):
                figures = self._step(step)
                for name in _LOGGED:
                    history[name].append(figures[name])
                self._measure(history)
                with self._processes.together():
                    self._rows.add(history)
                self._check_rewards(history)
                reward = figures["reward"]
                text = "" if reward is None else f"reward {reward:.3f}"
                bar.update(task, completed=step + 1, loss=text)
                if config.optim.save_every and (step + 1) % config.optim.save_every == 0:
                    self._save(history)
                self._show(step + 1, sheet, write_page)

    def _show(self, step: int, sheet: SampleSheet, write_page: Callable[[], None]) -> None:
        """Write the sheet and the page, if they are due after so many steps."""
        optim, every = self.config.optim, self.config.samples_every
        has_sheet = bool(every) and step % every == 0
        is_saved = bool(optim.save_every) and step % optim.save_every == 0
        if has_sheet or is_saved or step == optim.steps:
            with self._sampling(step):
                if self._processes.is_first:
                    if has_sheet:
                        sheet.write(step)
                    write_page()

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

    def _step(self, step: int) -> dict[str, Any]:
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
            self._move_average(step * self.config.updates + i + 1)
            updates.append(found)
        if updates:
            self._schedule.step()
            nft = self.config.nft
            self._follow(self._old, min(nft.decay_rate * (step + 1), nft.decay_limit))
        last = updates[-1] if updates else {}
        learning = {name: last.get(name) for name in _FIGURES}
        return {**figures_of(scored), **learning, "loss": mean([each["loss"] for each in updates])}

    def _collect(self, step: int) -> tuple[list[Group], list[ScoredGroup]]:
        """Groups of a step, see `GroupCollector.collect`."""
        update = self._update
        check = update.encode if isinstance(update, NFTUpdate) else lambda _: None
        try:
            return self._collector.collect(step, check)
        except (ServerError, RewardFunctionError):
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

    def _move_average(self, n: int) -> None:
        """Move the average after optimiser step n, from 1; the first ones count for more."""
        if n % self.config.ema_every == 0:
            self._follow(self._average, min(self.config.ema_decay, n / (n + 9)))

    @torch.no_grad()
    def _follow(self, weights: Mapping[str, Tensor], kept: float) -> None:
        """Move other weights towards the trained ones, but for the share that is kept."""
        for name, weight in weights.items():
            weight.lerp_(self._model.trained[name], 1 - kept)

    def _measure(self, history: Mapping[str, list[Any]]) -> None:
        """Measure the reward of the held-out prompts after the last step, if it is due."""
        step, measured = len(history["loss"]), history["held_out"]
        is_due = step % self.config.held_out_every == 0 or step == self.config.optim.steps
        if not (self._collector.held_out.prompts and is_due):
            return
        if not measured or measured[-1][0] != step:
            with self._sampling(step):
                measured.append([step, *self._collector.measure()])

    @contextmanager
    def _sampling(self, step: int) -> Iterator[None]:
        """Have the weights that are measured after a step.

        Raises:
            ModelError: The pipeline broke, in any process.
        """
        try:
            with self._processes.together(), self.result():
                yield
        except (RuntimeError, TypeError) as error:
            raise ModelError(
                f"sampling after step {step} failed: {one_line(error)}; the last state is "
                f"{self.state.newest()}"
            ) from error
