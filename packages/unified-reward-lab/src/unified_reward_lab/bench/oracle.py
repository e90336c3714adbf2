"""Scores of policies by the microworld's oracle, on held-out prompts.

The oracle reads pixels by geometry and answers by grammar, and shares nothing with the judges that
policies are aligned by. Their reward is reported beside it, so that reward hacking shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unified_reward import policies
from unified_reward.bench.metrics import Metric, mean_interval, wilson
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Candidate, Sample, Task
from unified_reward.core.verdicts import Scored
from unified_reward_lab.microworld import PolicyPrompt, Split, policy_prompt


_CHUNK = 64


@dataclass(frozen=True)
class PolicyExam:
    """Scores of a policy's samples, one for each held-out prompt, in the order of the prompts."""

    oracle_scores: tuple[float | None, ...]
    """Oracle scores in [0, 1]; None where the oracle could not read the sample."""
    rewards: tuple[float | None, ...]
    """Normalised scores of the judge in [0, 1]; None where its answer could not be read."""
    prompts: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Metrics with intervals: bootstrap over prompts, or Wilson's for shares.

        ``oracle``: mean oracle score, 0 for unreadable samples. ``readable``: share of readable
        ones. ``oracle_where_readable``: their mean. ``perfect``: share with an oracle score of 1.
        ``judge_reward``: mean reward of the samples that have one.
        """
        filled = [score or 0.0 for score in self.oracle_scores]
        return {
            "oracle": mean_known(filled, self.prompts),
            "readable": _share([score is not None for score in self.oracle_scores]),
            "oracle_where_readable": mean_known(self.oracle_scores, self.prompts),
            "perfect": _share([score == 1.0 for score in filled]),
            "judge_reward": mean_known(self.rewards, self.prompts),
        }

    def gain_over(self, other: PolicyExam) -> Metric:
        """Mean gain in oracle score over another policy, with an interval over prompts.

        Raises:
            ValueError: The other policy was given another number of prompts.
        """
        pairs = zip(self.oracle_scores, other.oracle_scores, strict=True)
        gains = [(new or 0.0) - (old or 0.0) for new, old in pairs]
        mean = sum(gains) / len(gains)
        return Metric(mean, mean_interval(gains, self.prompts), len(gains))


def mean_known(values: Sequence[float | None], prompts: Sequence[str]) -> dict[str, Any]:
    """JSON of the mean of the values that are not None, with its interval over prompts."""
    known = [
        (value, name) for value, name in zip(values, prompts, strict=True) if value is not None
    ]
    if not known:
        return Metric(math.nan, (math.nan, math.nan), 0).row()
    present, names = zip(*known, strict=True)
    mean = sum(present) / len(present)
    return Metric(mean, mean_interval(present, names), len(present)).row()


def gap_closed(before: float, after: float) -> float | None:
    """Share of the gap between ``before`` and 1 that is closed; None where there was no gap."""
    return None if before == 1 else (after - before) / (1 - before)


def examine(
    policy: policies.Policy,
    task: Task,
    judge: BaseJudge,
    *,
    n: int,
    seed: int,
    split: Split = "test",
    progress: Callable[[int], None] = lambda _: None,
) -> PolicyExam:
    """Sample one candidate for each of ``n`` prompts of the microworld and score them.

    Two policies examined with one seed get the same prompts with the same noise.

    Args:
        policy: A policy for the task.
        task: Generation or understanding of images or videos.
        judge: Scores the same candidates.
        n: Number of prompts.
        seed: Random seed of the prompts and of the samples.
        split: ``test`` for held-out prompts; ``train`` where options are chosen.
        progress: Called with the number of prompts just done.

    Raises:
        MediaError: The policy generates another size than the microworld's.
        RuntimeError: The policy failed.
    """
    oracle_scores: list[float | None] = []
    rewards: list[float | None] = []
    ids: list[str] = []
    for start in range(0, n, _CHUNK):
        prompts = [
            policy_prompt(task, split=split, seed=seed, index=i)
            for i in range(start, min(n, start + _CHUNK))
        ]
        candidates = [_sampled(policy, prompt, seed) for prompt in prompts]
        oracle_scores += [
            None if candidate is None else prompt.oracle_score(candidate)
            for prompt, candidate in zip(prompts, candidates, strict=True)
        ]
        rewards += _rewards(judge, prompts, candidates)
        ids += [prompt.id for prompt in prompts]
        progress(len(prompts))
    return PolicyExam(tuple(oracle_scores), tuple(rewards), tuple(ids))


def _sampled(policy: policies.Policy, prompt: PolicyPrompt, seed: int) -> Candidate | None:
    return policy.sample(prompt.prompt, prompt.context, policies.seeds(prompt.id, 1, seed))[0]


def _rewards(
    judge: BaseJudge, prompts: Sequence[PolicyPrompt], candidates: Sequence[Candidate | None]
) -> list[float | None]:
    samples = {
        i: Sample(prompt.task, prompt.prompt, (candidate,), prompt.context, id=prompt.id)
        for i, (prompt, candidate) in enumerate(zip(prompts, candidates, strict=True))
        if candidate is not None
    }
    rewards: list[float | None] = [None] * len(candidates)
    for i, verdict in zip(samples, judge.ask([*samples.values()]), strict=True):
        if isinstance(verdict, Scored) and verdict.score is not None:
            rewards[i] = verdict.score.normalized
    return rewards


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    n, total = sum(flags), len(flags)
    return Metric(n / total, wilson(n, total), total).row()
