"""Training loop of GRPO and DiffusionNFT: sample, score, learn; the history of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor

from unified_reward.core.errors import DataError, MediaError, ModelError, ServerError, one_line
from unified_reward.core.samples import Example, Image, Sample, Video
from unified_reward.policies.recorded import Rollout
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.loops import TrainState
from unified_reward.train.optim import loss_progress, non_finite_error
from unified_reward.train.policy_updates import (
    AdaptedNetworks,
    Group,
    GRPOUpdate,
    NFTUpdate,
    Update,
)
from unified_reward.train.reward_functions import RewardFunctionError
from unified_reward.train.rollouts import GroupRewards, GroupScores, diversity
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
        rollouts: GroupSampler,
        rewards: GroupRewards,
        accelerator: Accelerator,
        folder: Path,
        log: Callable[[str], None],
    ) -> None:
        self.config = config = rollouts.config
        self.held_out: list[Example] = []
        self._model, self._rollouts, self._rewards = model, rollouts, rewards
        self._accelerator, self._log = accelerator, log
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
            self.state.save(history)
            raise type(error)(f"{error}; resume from {self.state.newest()}") from error
        return history

    def _run(self, history: dict[str, list[Any]], sheet: SampleSheet) -> None:
        config, steps = self.config, self.config.optim.steps
        with loss_progress() as bar:
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
                    self.state.save(history)
                if config.samples_every and (step + 1) % config.samples_every == 0:
                    sheet.write(step + 1)
            self._measure(steps, history)

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
            groups, figures = self._sample(step)
        useful = [group for group in groups if group.scores.status == "scored"]
        updates: list[dict[str, float]] = []
        for i in range(self.config.updates if useful else 0):
            found = self._update.backward(useful, step * self.config.updates + i)
            norm = float(torch.nn.utils.clip_grad_norm_(self._weights, 1.0))
            if not all(map(math.isfinite, (norm, *found.values()))):
                raise non_finite_error("loss or gradient", step + 1, self.state.newest())
            self._optimiser.step()
            self._optimiser.zero_grad()
            updates.append(found)
        if updates:
            self._schedule.step()
            self._follow(step + 1)
        for name in _FIGURES:
            values = [found[name] for found in updates if name in found]
            figures[name] = float(np.mean(values)) if values else None
        return figures

    @torch.no_grad()
    def _follow(self, n: int) -> None:
        """Move the old policy towards the trained weights after step n, from 1."""
        decay = min(self.config.nft.decay_rate * n, self.config.nft.decay_limit)
        for name, weight in self._old.items():
            weight.lerp_(self._model.trained[name], 1 - decay)

    def _sample(self, step: int) -> tuple[list[Group], dict[str, float | None]]:
        """Groups of a step with rewards, and the figures of their samples."""
        made = [self._make(step, number) for number in self._rollouts.numbers(step)]
        samples = [
            [sample for rollout in rollouts for sample in rollout.samples]
            or [None] * self.config.group
            for _, rollouts in made
        ]
        questions = [
            [_question(prompt, sample) for sample in group]
            for (prompt, _), group in zip(made, samples, strict=True)
        ]
        scores = self._rewards.score(questions)
        rows = zip(self._rollouts.numbers(step), made, scores, strict=True)
        groups = [Group(number, *given, score) for number, given, score in rows]
        self._report(step, groups)
        figures = _figures(scores)
        distances = [value for group in samples if (value := diversity(group)) is not None]
        figures["diversity"] = float(np.mean(distances)) if distances else None
        return groups, figures

    def _make(self, step: int, number: int) -> tuple[Example, list[Rollout]]:
        """Sample a group; without rollouts where its prompt is refused."""
        prompt = self._rollouts.prompt(number)
        try:
            rollouts = self._rollouts.sample(step, number)
            is_made = any(sample for rollout in rollouts for sample in rollout.samples)
            if is_made and isinstance(self._update, NFTUpdate):
                unscored = GroupScores([], [], [])
                self._update.encode(Group(number, prompt, rollouts, unscored))
        except (MediaError, DataError, ValueError) as error:
            self._log(f"step {step + 1}: {prompt.id!r} is left out: {one_line(error)}")
            return prompt, []
        except RuntimeError as error:
            newest = self.state.newest()
            raise ModelError(
                f"sampling of step {step + 1} failed: {one_line(error)}; the last state is {newest}"
            ) from error
        return prompt, rollouts

    def _report(self, step: int, groups: Sequence[Group]) -> None:
        for group in groups:
            status, reasons = group.scores.status, [*filter(None, group.scores.reasons)]
            if status != "scored" or reasons:
                text = "has equal rewards" if status == "constant" else f"lacks {len(reasons)}"
                detail = f" rewards: {one_line(reasons[0])}" if reasons else ""
                self._log(f"step {step + 1}: the group of {group.prompt.id!r} {text}{detail}")

    def _measure(self, step: int, history: Mapping[str, list[Any]]) -> None:
        """Measure the reward of the held-out prompts after so many steps."""
        is_last = step == self.config.optim.steps
        measured = history["held_out"]
        is_due = step % self.config.held_out_every == 0 or is_last
        if not (self.held_out and is_due) or (measured and measured[-1][0] == step):
            return
        questions: list[list[Sample | None]] = []
        for prompt in self.held_out:
            try:
                samples = self._rollouts.sample_held_out(prompt)
            except (MediaError, ValueError) as error:
                self._log(f"held-out {prompt.id!r} is left out: {one_line(error)}")
                continue
            questions.append([_question(prompt, sample) for sample in samples])
        reward = _figures(self._rewards.score(questions))["reward"] if questions else None
        measured.append([step, reward])


def _figures(scores: Sequence[GroupScores]) -> dict[str, float | None]:
    """Mean reward, mean spread of a group, and counts of failures and skipped groups."""
    known = [[v for v in score.values if v is not None] for score in scores]
    values = [value for group in known for value in group]
    spreads = [float(np.std(group)) for group in known if len(group) > 1]
    statuses = [score.status for score in scores]
    return {
        "reward": float(np.mean(values)) if values else None,
        "spread": float(np.mean(spreads)) if spreads else None,
        "failed": float(sum(v is None for score in scores for v in score.values)),
        "failed_groups": float(statuses.count("failed")),
        "constant_groups": float(statuses.count("constant")),
        "lost_comparisons": float(sum(score.lost_comparisons for score in scores)),
    }


def _question(prompt: Example, sample: Image | Video | None) -> Sample | None:
    """Question to a judge about a sample of a prompt."""
    if sample is None:
        return None
    return Sample(prompt.task, prompt.prompt, (sample,), prompt.context, prompt.criteria, prompt.id)
