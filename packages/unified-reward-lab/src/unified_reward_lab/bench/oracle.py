"""What policies are worth to the microworld's oracle, on held-out prompts.

It reads pixels by geometry and answers by grammar, and has nothing in common with the judges that
policies are aligned by; their reward stands beside it, so that reward hacking shows.
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
    """What a policy made of held-out prompts, one candidate each, in the order of the prompts."""

    worths: tuple[float | None, ...]
    """To the oracle, in [0, 1]; None where it could not read the candidate."""
    rewards: tuple[float | None, ...]
    """The judge's normalised score; None where it could not be read."""
    prompts: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Figures with intervals: bootstrap over prompts, or Wilson's of shares.

        ``oracle``: mean worth, 0 where there is none. ``readable``: share that has one.
        ``oracle_where_readable``: mean worth of those. ``perfect``: share worth 1.
        ``judge_reward``: mean reward of those that have one.
        """
        filled = [one or 0.0 for one in self.worths]
        return {
            "oracle": mean_known(filled, self.prompts),
            "readable": _share([one is not None for one in self.worths]),
            "oracle_where_readable": mean_known(self.worths, self.prompts),
            "perfect": _share([one == 1.0 for one in filled]),
            "judge_reward": mean_known(self.rewards, self.prompts),
        }

    def gain_over(self, other: PolicyExam) -> Metric:
        """Mean of how much more the candidates are worth than those of another policy.

        The same prompts must have been asked; the interval is over them.
        """
        pairs = zip(self.worths, other.worths, strict=True)
        gains = [(one or 0.0) - (two or 0.0) for one, two in pairs]
        mean = sum(gains) / len(gains)
        return Metric(mean, mean_interval(gains, self.prompts), len(gains))


def mean_known(values: Sequence[float | None], prompts: Sequence[str]) -> dict[str, Any]:
    """Mean of the values that are there, as JSON, with its interval over prompts."""
    known = [(one, name) for one, name in zip(values, prompts, strict=True) if one is not None]
    if not known:
        return Metric(math.nan, (math.nan, math.nan), 0).row()
    told, names = zip(*known, strict=True)
    return Metric(sum(told) / len(told), mean_interval(told, names), len(told)).row()


def gap_closed(before: float, after: float) -> float | None:
    """Share of what was lacking to a worth of 1 that is there now; None where nothing was."""
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
    """Ask a policy prompts of the microworld, one candidate each.

    Two policies examined with one seed are asked the same prompts with the same noise.

    Args:
        policy: One for the task.
        task: Image or video, generation or understanding.
        judge: Scores the same candidates.
        n: Prompts.
        seed: Names the series of prompts, and the candidates drawn.
        split: ``test`` for held-out prompts; ``train`` where options are chosen.
        progress: Called with the number of prompts just done.

    Raises:
        MediaError: It draws in another size than the microworld's.
        RuntimeError: The policy broke.
    """
    worths: list[float | None] = []
    rewards: list[float | None] = []
    prompts: list[str] = []
    for start in range(0, n, _CHUNK):
        asked = [
            policy_prompt(task, split=split, seed=seed, index=i)
            for i in range(start, min(n, start + _CHUNK))
        ]
        made = [_made(policy, one, seed) for one in asked]
        worths += [
            None if candidate is None else one.oracle_score(candidate)
            for one, candidate in zip(asked, made, strict=True)
        ]
        rewards += _rewards(judge, asked, made)
        prompts += [one.id for one in asked]
        progress(len(asked))
    return PolicyExam(tuple(worths), tuple(rewards), tuple(prompts))


def _made(policy: policies.Policy, asked: PolicyPrompt, seed: int) -> Candidate | None:
    return policy.sample(asked.prompt, asked.context, policies.seeds(asked.id, 1, seed))[0]


def _rewards(
    judge: BaseJudge, asked: Sequence[PolicyPrompt], made: Sequence[Candidate | None]
) -> list[float | None]:
    drawn = [i for i, one in enumerate(made) if one is not None]
    samples = [
        Sample(asked[i].task, asked[i].prompt, (made[i],), asked[i].context, id=asked[i].id)  # type: ignore[arg-type]
        for i in drawn
    ]
    told: list[float | None] = [None] * len(made)
    for i, verdict in zip(drawn, judge.ask(samples), strict=True):
        if isinstance(verdict, Scored) and verdict.score is not None:
            told[i] = verdict.score.normalized
    return told


def _share(is_so: Sequence[bool]) -> dict[str, Any]:
    n, total = sum(is_so), len(is_so)
    return Metric(n / total, wilson(n, total), total).row()
