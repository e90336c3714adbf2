"""Rewards of groups of samples, and the advantages they make; knows no networks.

A reward that failed takes its sample out of its group, and is never a number.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import unified_reward_client as wire
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Task, Video, check_context
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import read_examples
from unified_reward.io.text import read_text
from unified_reward.train.reward_functions import RewardFunction
from unified_reward.train.reward_sources import RewardSource


_SAME_LINE = re.compile(r"duplicate id '[0-9a-f]{16}'")
"""Reason of a row without an id that is the same as an earlier one."""
_FEW = 10
"""Rows that are left out and whose reasons are logged."""


def read_prompts(
    path: Path, tasks: Sequence[Task], log: Callable[[str], None]
) -> tuple[list[Example], dict[str, int]]:
    """Read the prompts that a policy samples from; candidates in the rows are not read.

    Args:
        path: A file of rows; or, ending in ``.txt``, of a prompt a line.
        tasks: Tasks of the policy; a single task is that of rows without any.
        log: Called with the reason for each of the first 10 rows that are left out, and with the
            number of the others.

    Returns:
        The prompts, each once, and the number of rows by status: ``used``, ``repeated`` and
        ``left_out``.

    Raises:
        DataError: No row can be used.
    """
    prompts: list[Example] = []
    seen: dict[tuple[Any, ...], str] = {}
    rows: Counter[str] = Counter()
    reasons: list[str] = []
    for name, content in _read_rows(path, tasks[0] if len(tasks) == 1 else None):
        reason = _reason(content, tasks)
        status = "repeated" if _SAME_LINE.search(reason) else "left_out"
        if isinstance(content, Example) and not reason:
            key = (content.task, content.prompt, content.context)
            if seen.setdefault(key, name) == name:
                status = "used"
                prompts.append(content)
            else:
                status, reason = "repeated", f"it repeats the prompt of {seen[key]!r}"
        rows[status] += 1
        if reason:
            reasons.append(f"{path}: {name!r} is left out: {reason}")
    if not prompts:
        first = f", such as\n{reasons[0]}" if reasons else ""
        raise DataError(f"{path} has no prompt that the policy can sample from{first}")
    for reason in reasons[:_FEW]:
        log(reason)
    if len(reasons) > _FEW:
        log(f"{path}: {len(reasons) - _FEW} more rows are left out")
    return prompts, dict(rows)


def _read_rows(path: Path, task: Task | None) -> Iterator[tuple[str, Example | Failed]]:
    """Id and content of each row of a file, or of each line of a text."""
    if path.suffix.lower() != ".txt":
        yield from ((row.id, row.content) for row in read_examples(path, task=task))
        return
    if task is None:
        raise DataError(f"{path} is a text; questions are rows of JSON with a task and a context")
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if prompt := line.strip():
            yield f"line {number}", Example(task, prompt, (), id=f"line {number}")


def _reason(content: Example | Failed, tasks: Sequence[Task]) -> str:
    """Reason why a row cannot be used; empty if it can."""
    if isinstance(content, Failed):
        return content.reason
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
    """Weighted sum of the z-scores of each reward in the group (of a set that sums, the z-score of
    the weighted sum); None where a reward failed."""
    values: list[float | None]
    """Weighted sum of the rewards themselves."""
    reasons: list[str]
    """Reason of a missing reward; otherwise empty."""
    by_reward: Mapping[str, list[float | None]] = field(
        default_factory=dict[str, list[float | None]]
    )
    """Each reward of its own, by name; None where it failed."""
    lost_comparisons: int = 0
    """Comparisons behind win rates that failed or could not be read."""
    least: int = 2
    """Rewards that the group needs; with 1 they need not differ."""

    @property
    def status(self) -> str:
        """``failed`` with too few rewards, ``constant`` if all are equal, or ``scored``."""
        known = [value for value in self.advantages if value is not None]
        if len(known) < self.least:
            return "failed"
        return "scored" if any(known) or self.least == 1 else "constant"


class GroupRewards:
    """Rewards with weights, combined in groups by a `RewardSet` (GDPO, arXiv:2601.05242)."""

    def __init__(
        self,
        sources: Mapping[str, BaseJudge | RewardFunction],
        weights: Sequence[float] = (),
        *,
        min_spread: float = 0.0,
        patience_s: float = 120.0,
        opponents: int = 8,
        reward_set: wire.RewardSet | None = None,
    ) -> None:
        """Set up.

        Args:
            sources: Judges, or functions, by name. A judge that only compares gives win rates in
                the group.
            weights: Weight of each; empty for 1.
            min_spread: Standard deviation of a group up to which differences are noise.
            patience_s: Seconds to wait for a server that does not answer.
            opponents: Most samples of the group that each is compared with, >= 2.
            reward_set: Instead of ``weights`` and ``min_spread``, terms whose ``judge`` is the name
                of a source; ``on_failure`` must be ``none``.

        Raises:
            ConfigError: There is no reward, or weights or terms do not fit the sources.
        """
        if not sources:
            raise ConfigError("give at least one reward")
        if weights and len(weights) != len(sources):
            raise ConfigError(f"{len(weights)} weights for {len(sources)} rewards")
        self.sources, self.least = sources, 2
        """Judges and functions; rewards that a group needs, with 1 they need not differ."""
        self._sources = {
            name: RewardSource(name, source, patience_s, opponents)
            for name, source in sources.items()
        }
        self._set = reward_set or wire.RewardSet(
            [
                wire.RewardTerm(name, weight, min_spread=min_spread)
                for name, weight in zip(sources, weights or [1.0] * len(sources), strict=True)
            ]
        )
        if self._set.on_failure != "none":
            raise ConfigError("a missing reward is no number: on_failure must be 'none'")
        for term in self._set.terms:
            if term.judge not in sources:
                raise ConfigError(f"there is no {term.judge!r} among {', '.join(sources)}")
            self._sources[term.judge].check(term)

    @property
    def terms(self) -> Sequence[wire.RewardTerm]:
        """Rewards with their weights and scales."""
        return self._set.terms

    @property
    def names(self) -> list[str]:
        """Names of the terms."""
        return [term.name for term in self._set.terms]

    def check_tasks(self, tasks: Collection[Task], *, is_measured: bool = False) -> None:
        """Refuse a judge that is known not to judge a task of the prompts.

        Args:
            tasks: Tasks of the prompts.
            is_measured: The mean reward measures a policy, which win rates in a group do not.

        Raises:
            ConfigError: There is one.
        """
        for term in self._set.terms:
            self._sources[term.judge].check_tasks(term, tasks, is_measured=is_measured)

    def score(self, groups: Sequence[Sequence[Sample | None]]) -> list[GroupScores]:
        """Score groups of samples; None is a sample that could not be made.

        Raises:
            ConfigError: A judge lacks what its term needs, such as sigmas.
            RewardFunctionError: A function failed, or returned something else than rewards.
            ServerError: A server did not answer for too long.
        """
        made = [[sample for sample in group if sample is not None] for group in groups]
        needed = dict.fromkeys((term.judge, term.form) for term in self._set.terms)
        found = {key: self._sources[key[0]].rewards(key[1], made) for key in needed}
        missing = wire.Reward(None, "the sample could not be made")
        rewards: dict[str, list[wire.Reward | float | None]] = {}
        for term in self._set.terms:
            given = (reward for own, _ in found[term.judge, term.form] for reward in own)
            rewards[term.name] = [
                missing if sample is None else next(given) for group in groups for sample in group
            ]
        index = [i for i, group in enumerate(groups) for _ in group]
        try:
            combined = self._set.combine(rewards, index)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        advantages, values = self._advantages(combined, index), self._values(combined)
        scores: list[GroupScores] = []
        start = 0
        for i, group in enumerate(groups):
            part = slice(start, start + len(group))
            start = part.stop
            own = {name: column[part] for name, column in combined.scaled.items()}
            lost = sum(each[i][1] for each in found.values())
            reasons = combined.reasons[part]
            columns = advantages[part], values[part], reasons, own, lost
            scores.append(GroupScores(*columns, self.least))
        return scores

    def _advantages(self, combined: wire.Combined, index: Sequence[int]) -> list[float | None]:
        if self._set.aggregate == "gdpo":
            return combined.values
        sums = np.array([math.nan if value is None else value for value in combined.values])
        scores = wire.z_scores(sums, wire.group_index(index)).tolist()
        return [score if math.isfinite(score) else None for score in scores]

    def _values(self, combined: wire.Combined) -> list[float | None]:
        weights = [term.weight for term in self._set.terms]
        return [_weighted(row, weights) for row in zip(*combined.scaled.values(), strict=True)]


def _weighted(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [value for value in row if value is not None]
    return float(np.dot(known, weights)) if len(known) == len(row) else None


def diversity(samples: Sequence[Image | Video | None]) -> float | None:
    """Mean absolute difference of the pixels of two samples of a group, in [0, 1].

    None with fewer than two samples.
    """
    pixels = [np.asarray(s.source, np.int16) for s in samples if s is not None]
    distances = [float(np.abs(a - b).mean()) / 255 for a, b in combinations(pixels, 2)]
    return float(np.mean(distances)) if distances else None
