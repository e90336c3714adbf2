"""Scored groups of a step, and the rewards of prompts that are kept out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unified_reward.core.errors import DataError, MediaError, ModelError, one_line
from unified_reward.core.samples import Example, Image, Sample, Video
from unified_reward.policies.recorded import Rollout
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.policy_updates import Group
from unified_reward.train.processes import Processes
from unified_reward.train.rollouts import GroupRewards, GroupScores, diversity


class ScoredGroup(NamedTuple):
    """Rewards of a group of any process, without its samples."""

    name: str
    """Name of its prompt."""
    scores: GroupScores
    diversity: float | None = None
    refusal: str = ""
    """Reason why its prompt could not be sampled; otherwise empty."""

    @property
    def learned(self) -> int:
        """Number of samples to learn from."""
        known = [value for value in self.scores.advantages if value is not None]
        return len(known) if self.scores.status == "scored" else 0


class GroupCollector:
    """Samples and scores the groups of this process; reports those of all."""

    def __init__(
        self,
        rollouts: GroupSampler,
        rewards: GroupRewards,
        processes: Processes,
        log: Callable[[str], None],
        held_out: Sequence[Example] = (),
    ) -> None:
        """Set up.

        Args:
            rollouts: Sampler.
            rewards: Rewards that are trained.
            processes: Processes that divide the groups.
            log: Called in the first process with the reason for each group that is left out.
            held_out: Prompts that are never trained.
        """
        self._rollouts, self._rewards, self._processes = rollouts, rewards, processes
        self._log = log if processes.is_first else lambda _: None
        self.held_out = held_out

    def collect(
        self, step: int, check: Callable[[Group], None]
    ) -> tuple[list[Group], list[ScoredGroup]]:
        """Sample and score the groups of a step, from 0.

        Args:
            step: Number of the step.
            check: Called with each group before it is scored; refuses it with DataError or
                ValueError.

        Returns:
            Groups of this process, and the rewards of those of all.

        Raises:
            ModelError: The pipeline broke.
            ServerError: A server did not answer for too long.
        """
        with self._processes.together():
            groups, scored = self._collect(step, check)
        everywhere = self._processes.gather(scored)
        for group in everywhere:
            self._report(step, group)
        return groups, everywhere

    def _collect(
        self, step: int, check: Callable[[Group], None]
    ) -> tuple[list[Group], list[ScoredGroup]]:
        numbers = self._processes.share(self._rollouts.numbers(step))
        made = [self._make(step, number, check) for number in numbers]
        samples = [
            [sample for rollout in rollouts for sample in rollout.samples]
            or [None] * self._rollouts.config.group
            for _, rollouts, _ in made
        ]
        prompts = [prompt for prompt, _, _ in made]
        scores = self._rewards.score(
            [
                [_question(prompt, sample) for sample in group]
                for prompt, group in zip(prompts, samples, strict=True)
            ]
        )
        rows = [*zip(numbers, made, samples, scores, strict=True)]
        groups = [Group(n, prompt, rollouts, score) for n, (prompt, rollouts, _), _, score in rows]
        scored = [
            ScoredGroup(prompt.id, score, diversity(group), refusal)
            for _, (prompt, _, refusal), group, score in rows
        ]
        return groups, scored

    def _make(
        self, step: int, number: int, check: Callable[[Group], None]
    ) -> tuple[Example, list[Rollout], str]:
        """Sample a group; without rollouts, and with the reason, where its prompt is refused."""
        prompt = self._rollouts.prompt(number)
        try:
            rollouts = self._rollouts.sample(step, number)
            if any(sample for rollout in rollouts for sample in rollout.samples):
                check(Group(number, prompt, rollouts, GroupScores([], [], [])))
        except (MediaError, DataError, ValueError) as error:
            return prompt, [], one_line(error)
        except RuntimeError as error:
            raise ModelError(f"sampling of step {step + 1} failed: {one_line(error)}") from error
        return prompt, rollouts, ""

    def _report(self, step: int, group: ScoredGroup) -> None:
        if group.refusal:
            self._log(f"step {step + 1}: {group.name!r} is left out: {group.refusal}")
        status, reasons = group.scores.status, [*filter(None, group.scores.reasons)]
        if status != "scored" or reasons:
            text = "has equal rewards" if status == "constant" else f"lacks {len(reasons)}"
            detail = f" rewards: {one_line(reasons[0])}" if reasons else ""
            self._log(f"step {step + 1}: the group of {group.name!r} {text}{detail}")

    def measure(self) -> float | None:
        """Mean reward of the held-out prompts; None where there is none.

        Raises:
            ServerError: A server did not answer for too long.
        """
        with self._processes.together():
            scored = self._measure(self._processes.share(self.held_out))
        everywhere = self._processes.gather(scored)
        for group in everywhere:
            if group.refusal:
                self._log(f"held-out {group.name!r} is left out: {group.refusal}")
        return figures_of(everywhere)["reward"]

    def _measure(self, prompts: Sequence[Example]) -> list[ScoredGroup]:
        refused: list[ScoredGroup] = []
        names: list[str] = []
        questions: list[list[Sample | None]] = []
        for prompt in prompts:
            try:
                samples = self._rollouts.sample_held_out(prompt)
            except (MediaError, ValueError) as error:
                nothing = GroupScores([], [], [])
                refused.append(ScoredGroup(prompt.id, nothing, refusal=one_line(error)))
                continue
            names.append(prompt.id)
            questions.append([_question(prompt, sample) for sample in samples])
        return [*refused, *map(ScoredGroup, names, self._rewards.score(questions))]


def figures_of(groups: Sequence[ScoredGroup]) -> dict[str, float | None]:
    """Means of reward, spread and diversity of a group; counts of failures and skipped groups."""
    known = [[v for v in group.scores.values if v is not None] for group in groups]
    statuses = [group.scores.status for group in groups]
    return {
        "reward": mean([value for group in known for value in group]),
        "spread": mean([float(np.std(group)) for group in known if len(group) > 1]),
        "diversity": mean([group.diversity for group in groups]),
        "failed": float(sum(v is None for group in groups for v in group.scores.values)),
        "failed_groups": float(statuses.count("failed")),
        "constant_groups": float(statuses.count("constant")),
        "lost_comparisons": float(sum(group.scores.lost_comparisons for group in groups)),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None without one."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _question(prompt: Example, sample: Image | Video | None) -> Sample | None:
    """Question to a judge about a sample of a prompt."""
    if sample is None:
        return None
    return Sample(prompt.task, prompt.prompt, (sample,), prompt.context, prompt.criteria, prompt.id)
