"""Rewards of the study of reinforcement learning: watched by the oracle, counted, made to fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DConditionModel, WanTransformer3DModel
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Scored, Verdict
from unified_reward_lab.microworld import policy_prompt


Handling = Literal["left_out", "zero", "group_mean"]
"""Value of a reward that failed: none, as the library has it; 0; or the mean of its group."""
_BACKWARD = 2
"""Forward passes that a backward pass costs: one for the inputs and one for the weights."""
_FAILURES_OF = 10_000


class WatchedReward:
    """Scores of a judge as a reward function, some of which fail; with curves of its calls.

    The judge is asked of every sample. The oracle and a second judge look on: no policy is trained
    by what they say.
    """

    def __init__(
        self,
        judge: BaseJudge,
        watcher: BaseJudge | None = None,
        *,
        failed: float = 0.0,
        handling: Handling = "left_out",
        groups: int = 0,
    ) -> None:
        """Set up.

        Args:
            judge: The judge that scores.
            watcher: The second judge; None for neither judge nor oracle.
            failed: Share of the rewards that fail, in [0, 1], decided by the sample alone.
            handling: Value of a failed reward.
            groups: Groups of a training step; a call about more prompts is about the held-out ones.
        """
        self.judge, self.watcher = judge, watcher
        self.failed, self.handling, self.groups = failed, handling, groups
        self.questions = self.failures = 0
        self.curve: list[dict[str, Any]] = []
        """Mean reward of each call, and what was seen of those about held-out prompts."""

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """Scores in the judge's unit; None for a sample without one."""
        values = scores(self.judge, samples)
        self.questions += len(samples)
        is_held_out = len({sample.id for sample in samples}) > self.groups
        if self.watcher:
            looked = self._watch(self.watcher, samples) if is_held_out else {}
            self.curve.append({"held_out": is_held_out, "reward": _mean(values), **looked})
        if not self.failed:
            return values
        is_failed = [fails(sample, self.failed) for sample in samples]
        self.failures += sum(is_failed)
        return replace_failed([s.id for s in samples], values, is_failed, self.handling)

    @staticmethod
    def _watch(watcher: BaseJudge, samples: Sequence[Sample]) -> dict[str, Any]:
        read = [oracle_score(sample) for sample in samples]
        return {
            "second": _mean(scores(watcher, samples)),
            "oracle": _mean([score or 0.0 for score in read]),
            "readable": _mean([float(score is not None) for score in read]),
        }


def scores(judge: BaseJudge, samples: Sequence[Sample]) -> list[float | None]:
    """Overall scores of a judge in its own unit; None where it gave none."""
    return [_value(verdict) for verdict in judge.ask(samples)]


def _value(verdict: Verdict) -> float | None:
    return verdict.score.value if isinstance(verdict, Scored) and verdict.score else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def oracle_score(sample: Sample) -> float | None:
    """Score by the oracle, for a sample that has the id of a prompt of the microworld."""
    *_, split, seed, index = sample.id.split("-")
    prompt = policy_prompt(
        sample.task, split="train" if split == "train" else "test", seed=int(seed), index=int(index)
    )
    return prompt.oracle_score(sample.candidates[0])


def fails(sample: Sample, share: float) -> bool:
    """Whether the reward of a sample fails: decided by its pixels and its prompt."""
    medium: Any = sample.candidates[0]
    content = sample.id.encode() + np.ascontiguousarray(medium.source).tobytes()
    number = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return number % _FAILURES_OF < share * _FAILURES_OF


def replace_failed(
    groups: Sequence[str],
    values: Sequence[float | None],
    is_failed: Sequence[bool],
    handling: Handling,
) -> list[float | None]:
    """Values with those that failed replaced.

    Example:
        >>> replace_failed("aab", [1.0, 3.0, 2.0], [True, False, False], "group_mean")
        [3.0, 3.0, 2.0]
    """
    known: dict[str, list[float]] = {}
    for group, value, failed in zip(groups, values, is_failed, strict=True):
        if value is not None and not failed:
            known.setdefault(group, []).append(value)

    def replacement(group: str) -> float | None:
        if handling == "zero":
            return 0.0
        return _mean(known.get(group, [])) if handling == "group_mean" else None

    rows = zip(groups, values, is_failed, strict=True)
    return [replacement(group) if failed else value for group, value, failed in rows]


class NetworkCalls:
    """Number of samples that denoisers have processed."""

    def __init__(self) -> None:
        self.forward = 0
        self.trained = 0
        """Those of the forward ones that were differentiated."""

    @property
    def total(self) -> int:
        """Forward passes, a backward pass counted as two."""
        return self.forward + _BACKWARD * self.trained


@contextmanager
def counted_calls() -> Iterator[NetworkCalls]:
    """Count the calls of every U-Net and Wan transformer meanwhile, by sample."""
    calls = NetworkCalls()

    def count(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, UNet2DConditionModel | WanTransformer3DModel):
            made = output[0]
            calls.forward += len(made)
            calls.trained += len(made) if torch.is_grad_enabled() and made.requires_grad else 0

    handle = register_module_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()
