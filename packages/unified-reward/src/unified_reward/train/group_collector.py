"""Scored groups of a step, and the rewards of prompts that are kept out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unified_reward.core.errors import DataError, MediaError, ModelError, one_line
from unified_reward.core.samples import Example, Image, Sample, Video
from unified_reward.policies.recorded import Rollout
from unified_reward.train.group_rewards import GroupRewards, GroupScores, diversity
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.policy_updates import Group
from unified_reward.train.processes import Processes


class _Made(NamedTuple):
    """Samples of a prompt."""

    prompt: Example
    samples: list[Image | Video | None]
    rollouts: Sequence[Rollout] = ()
    refusal: str = ""
    """Reason why there are none; otherwise empty."""

    @property
    def questions(self) -> list[Sample | None]:
        """Question to a judge about each sample."""
        prompt = self.prompt
        return [
            sample
            and Sample(
                prompt.task, prompt.prompt, (sample,), prompt.context, prompt.criteria, prompt.id
            )
            for sample in self.samples
        ]


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


class HeldOut(NamedTuple):
    """Prompts that are never trained."""

    prompts: Sequence[Example] = ()
    rewards: GroupRewards | None = None
    """Rewards that are measured on them only."""


class GroupCollector:
    """Samples and scores the groups of this process; reports those of all."""

    def __init__(
        self,
        rollouts: GroupSampler,
        rewards: GroupRewards,
        processes: Processes,
        log: Callable[[str], None],
        held_out: HeldOut,
        judging: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Set up.

        Args:
            rollouts: Sampler.
            rewards: Rewards that are trained.
            processes: Processes that divide the groups.
            log: Called in the first process with the reason for each group that is left out.
            held_out: Prompts that are measured.
            judging: Surrounds every use of the rewards.
        """
        self._rollouts, self.rewards, self._processes = rollouts, rewards, processes
        self._log = log if processes.is_first else lambda _: None
        self.held_out, self._judging = held_out, judging

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
            numbers = self._processes.share(self._rollouts.numbers(step))
            samplings = [partial(self._make, step, number, check) for number in numbers]
            made, scores = self._score(samplings)
            groups = [
                Group(number, each.prompt, [*each.rollouts], score)
                for number, each, score in zip(numbers, made, scores, strict=True)
            ]
            scored = [
                ScoredGroup(each.prompt.id, score, diversity(each.samples), each.refusal)
                for each, score in zip(made, scores, strict=True)
            ]
        everywhere = self._processes.gather(scored)
        for group in everywhere:
            self._report(step, group)
        return groups, everywhere

    def _score(
        self, samplings: Sequence[Callable[[], _Made]]
    ) -> tuple[list[_Made], list[GroupScores]]:
        """Sample groups and score them: all together, or each while the next is sampled."""
        if not self._rollouts.config.async_reward:
            made = [sample() for sample in samplings]
            with self._judging():
                return made, self.rewards.score([each.questions for each in made])
        made, futures = list[_Made](), list[Future[list[GroupScores]]]()

        def score(questions: list[Sample | None]) -> list[GroupScores]:
            # A server that is down is waited for once.
            if any(each.done() and each.exception() for each in futures):
                raise CancelledError
            return self.rewards.score([questions])

        pool = ThreadPoolExecutor(1)
        try:
            for sample in samplings:
                made.append(sample())
                futures.append(pool.submit(score, made[-1].questions))
            return made, [found for each in futures for found in each.result()]
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, step: int, number: int, check: Callable[[Group], None]) -> _Made:
        """Sample a group; without rollouts, and with the reason, where its prompt is refused."""
        prompt = self._rollouts.prompt(number)
        try:
            rollouts = self._rollouts.sample(step, number)
            samples = [sample for rollout in rollouts for sample in rollout.samples]
            if any(samples):
                check(Group(number, prompt, rollouts, GroupScores([], [], [])))
        except (MediaError, DataError, ValueError) as error:
            nothing: list[Image | Video | None] = [None] * self._rollouts.config.group
            return _Made(prompt, nothing, [], one_line(error))
        except RuntimeError as error:
            raise ModelError(f"sampling of step {step + 1} failed: {one_line(error)}") from error
        return _Made(prompt, samples, rollouts)

    def _report(self, step: int, group: ScoredGroup) -> None:
        if group.refusal:
            self._log(f"step {step + 1}: {group.name!r} is left out: {group.refusal}")
        status, reasons = group.scores.status, [*filter(None, group.scores.reasons)]
        if status != "scored" or reasons:
            text = "has equal rewards" if status == "constant" else f"lacks {len(reasons)}"
            detail = f" rewards: {one_line(reasons[0])}" if reasons else ""
            self._log(f"step {step + 1}: the group of {group.name!r} {text}{detail}")

    def measure(self) -> tuple[float | None, dict[str, float | None]]:
        """Measure the rewards of the held-out prompts.

        Returns:
            Mean of the trained rewards together, None where there is none; and the mean of every
            reward, by name.

        Raises:
            ServerError: A server did not answer for too long.
        """
        with self._processes.together():
            made = [*map(self._make_held_out, self._processes.share(self.held_out.prompts))]
            questions = [each.questions for each in made if not each.refusal]
            sets = [self.rewards, self.held_out.rewards]
            with self._judging():
                scores = [each.score(questions) if each else [] for each in sets]
        for name, refusal in self._processes.gather([(e.prompt.id, e.refusal) for e in made]):
            if refusal:
                self._log(f"held-out {name!r} is left out: {refusal}")
        trained, others = (self._processes.gather(each) for each in scores)
        return _reward(trained), means_by_reward(trained) | means_by_reward(others)

    def _make_held_out(self, prompt: Example) -> _Made:
        try:
            return _Made(prompt, self._rollouts.sample_held_out(prompt))
        except (MediaError, ValueError) as error:
            return _Made(prompt, [], refusal=one_line(error))


def figures_of(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """Means of reward, spread and diversity of a group; counts of failures and skipped groups."""
    scores = [group.scores for group in groups]
    known = [[v for v in score.values if v is not None] for score in scores]
    statuses = [score.status for score in scores]
    return {
        "reward": _reward(scores),
        "rewards": means_by_reward(scores),
        "spread": mean([float(np.std(group)) for group in known if len(group) > 1]),
        "diversity": mean([group.diversity for group in groups]),
        "failed": float(sum(v is None for score in scores for v in score.values)),
        "failed_groups": float(statuses.count("failed")),
        "constant_groups": float(statuses.count("constant")),
        "lost_comparisons": float(sum(group.scores.lost_comparisons for group in groups)),
    }


def _reward(scores: Sequence[GroupScores]) -> float | None:
    return mean([value for score in scores for value in score.values])


def means_by_reward(scores: Sequence[GroupScores]) -> dict[str, float | None]:
    """Mean of each reward, by name; None where all failed."""
    names = [*scores[0].by_reward] if scores else []
    return {name: mean([v for score in scores for v in score.by_reward[name]]) for name in names}


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None without one."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
