"""Rewards of groups of samples, and the advantages they make; knows no networks.

A reward that failed takes its sample out of its group, and is never a number.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import unified_reward_client as wire
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError, ServerError
from unified_reward.core.samples import Example, Image, Sample, Task, Video, check_context
from unified_reward.core.verdicts import Failed, Scored, Unparsed, Verdict
from unified_reward.io.rows import read_examples


RewardFunction = Callable[[Sequence[Sample]], Sequence[float | None]]
"""Scores samples of one candidate each; None for a sample that it cannot score."""
_FIRST_WAIT_S = 1.0


def read_prompts(
    path: Path, tasks: Sequence[Task], log: Callable[[str], None]
) -> tuple[list[Example], dict[str, int]]:
    """Read the prompts that a policy samples from; candidates in the rows are not read.

    Args:
        path: A file of rows.
        tasks: Tasks of the policy.
        log: Called with the reason for each row that is left out.

    Returns:
        The prompts, and the number of rows by status: ``used`` and ``left_out``.

    Raises:
        DataError: A prompt is there twice, or no row can be used.
    """
    prompts: list[Example] = []
    seen: dict[tuple[Any, ...], str] = {}
    rows: Counter[str] = Counter()
    for row in read_examples(path):
        reason = _reason(row.content, tasks)
        rows["left_out" if reason else "used"] += 1
        if reason or isinstance(row.content, Failed):
            log(f"{path}: {row.id!r} is left out: {reason}")
            continue
        example = row.content
        key = (example.task, example.prompt, example.context)
        if key in seen:
            raise DataError(
                f"{path}: {row.id!r} repeats the prompt of {seen[key]!r}; a prompt is sampled "
                "from as a group, so remove the repetition"
            )
        seen[key] = row.id
        prompts.append(example)
    if not prompts:
        raise DataError(f"{path} has no prompt that the policy can sample from")
    return prompts, dict(rows)


def _reason(content: Example | Failed, tasks: Sequence[Task]) -> str:
    """Reason why a row cannot be used; empty if it can."""
    if isinstance(content, Failed):
        return content.error
    if content.task not in tasks:
        return f"the policy is for {' and '.join(tasks)}, not {content.task.value}"
    if content.context and content.task in (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION):
        return f"a prompt of {content.task.value} has no context"
    try:
        check_context(content.task, content.context)
    except DataError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class GroupScores:
    """Rewards of the N samples of a group."""

    advantages: list[float | None]
    """Weighted sum of the z-scores of each reward in the group; None where a reward failed."""
    values: list[float | None]
    """Weighted sum of the rewards themselves."""
    reasons: list[str]
    """Reason of a missing reward; otherwise empty."""

    @property
    def status(self) -> str:
        """``failed`` with fewer than two rewards, ``constant`` if all are equal, or ``scored``."""
        known = [value for value in self.advantages if value is not None]
        if len(known) < 2:
            return "failed"
        return "scored" if any(known) else "constant"


class GroupRewards:
    """Rewards with weights, combined in groups by `RewardSet` (GDPO, arXiv:2601.05242)."""

    def __init__(
        self,
        sources: Mapping[str, BaseJudge | RewardFunction],
        weights: Sequence[float] = (),
        *,
        min_spread: float = 0.0,
        patience_s: float = 120.0,
    ) -> None:
        """Set up.

        Args:
            sources: Judges that score, or functions, by name.
            weights: Weight of each; empty for 1.
            min_spread: Standard deviation of a group up to which differences are noise.
            patience_s: Seconds to wait for a server that does not answer.

        Raises:
            ConfigError: There is no reward, or not a weight for each.
        """
        if not sources:
            raise ConfigError("give at least one reward")
        if weights and len(weights) != len(sources):
            raise ConfigError(f"{len(weights)} weights for {len(sources)} rewards")
        self._sources, self._patience_s = sources, patience_s
        weights = weights or [1.0] * len(sources)
        terms = [
            wire.RewardTerm(name, weight, min_spread=min_spread)
            for name, weight in zip(sources, weights, strict=True)
        ]
        self._weights = np.array(weights)
        self._set = wire.RewardSet(terms)

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Refuse a judge that is known to score nothing that the policy makes.

        Raises:
            ConfigError: There is one.
        """
        for name, source in self._sources.items():
            known = source.describe()["tasks"] if isinstance(source, BaseJudge) else {}
            scored = [task for task in known if "score" in known[task].get("forms", ("score",))]
            if known and not any(task.value in scored for task in tasks):
                raise ConfigError(
                    f"{name} scores {', '.join(scored) or 'nothing'}, and the policy makes "
                    f"{' and '.join(tasks)}"
                )

    def score(self, groups: Sequence[Sequence[Sample | None]]) -> list[GroupScores]:
        """Score groups of samples; None is a sample that could not be made.

        Raises:
            ConfigError: A function returned another number of rewards.
            ServerError: A server did not answer for too long.
        """
        flat = [sample for group in groups for sample in group]
        made = [sample for sample in flat if sample is not None]
        missing = wire.Reward(None, "the sample could not be made")
        rewards: dict[str, list[wire.Reward | float | None]] = {}
        for name, source in self._sources.items():
            scores = iter(self._ask(name, source, made))
            rewards[name] = [missing if sample is None else next(scores) for sample in flat]
        index = [i for i, group in enumerate(groups) for _ in group]
        combined = self._set.combine(rewards, index)
        columns = [combined.scaled[name] for name in self._sources]
        values = [_weighted(row, self._weights) for row in zip(*columns, strict=True)]
        scored: list[GroupScores] = []
        start = 0
        for group in groups:
            part = slice(start, start + len(group))
            start = part.stop
            scored.append(GroupScores(combined.values[part], values[part], combined.reasons[part]))
        return scored

    def _ask(
        self, name: str, source: BaseJudge | RewardFunction, samples: Sequence[Sample]
    ) -> list[wire.Reward | float | None]:
        if not isinstance(source, BaseJudge):
            values = list(source(samples)) if samples else []
            if len(values) != len(samples):
                raise ConfigError(f"{name}: {len(values)} rewards for {len(samples)} samples")
            return [*values]
        for wait_s in (*_waits(self._patience_s), None):
            verdicts = source.ask(samples) if samples else []
            is_down = verdicts and all(map(_is_server_error, verdicts))
            if not is_down:
                break
            if wait_s is None:
                raise ServerError(f"{name}: {_reward(verdicts[0]).reason}")
            time.sleep(wait_s)
        return [_reward(verdict) for verdict in verdicts]


def _waits(total_s: float) -> Iterator[float]:
    """Doubling waits, in seconds, up to a total."""
    wait_s = _FIRST_WAIT_S
    while total_s > 0:
        yield min(wait_s, total_s)
        total_s, wait_s = total_s - wait_s, 2 * wait_s


def _is_server_error(verdict: Verdict) -> bool:
    return isinstance(verdict, Failed) and isinstance(verdict.cause, ServerError)


def _reward(verdict: Verdict) -> wire.Reward:
    """Overall score of a verdict, or the mean of the aspects where its family has only these."""
    match verdict:
        case Scored(score=None, aspects=aspects) if aspects:
            return wire.Reward(float(np.mean([score.value for score in aspects.values()])))
        case Scored(score=score) if score:
            return wire.Reward(score.value, sigma=score.sigma)
        case Failed(error=reason) | Unparsed(reason=reason):
            return wire.Reward(None, reason)
        case _:
            return wire.Reward(None, f"the judge answered with {type(verdict).__name__}")


def _weighted(row: Sequence[float | None], weights: Any) -> float | None:
    known = [value for value in row if value is not None]
    return float(np.dot(known, weights)) if len(known) == len(row) else None


def diversity(samples: Sequence[Image | Video | None]) -> float | None:
    """Mean absolute difference of the pixels of two samples of a group, in [0, 1].

    None with fewer than two samples.
    """
    pixels = [np.asarray(s.source, np.int16) for s in samples if s is not None]
    distances = [float(np.abs(a - b).mean()) / 255 for a, b in combinations(pixels, 2)]
    return float(np.mean(distances)) if distances else None
