"""Candidates and pairs of the microworld for DPO, and exams of the policies it aligns; resumable.

Shared by the recipes and the experiments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from unified_reward import policies
from unified_reward.core.errors import DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.row_file import RowFile
from unified_reward.io.rows import read_examples
from unified_reward.judges import bulk as judge_bulk
from unified_reward.judges.registry import JudgeOptions, open_judge
from unified_reward.pairs import bulk
from unified_reward.pairs.strategies import PairOptions
from unified_reward.policies.candidates import CandidateWork
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward_lab.bench.oracle import examine, gap_closed
from unified_reward_lab.examples import write_prompts
from unified_reward_lab.microworld import Split


@dataclass(frozen=True)
class PreferenceConfig:
    """Settings of preference pairs that are made from a policy's own candidates."""

    prompts: int = 64
    """Number of prompts of the training split, >= 1."""
    n: int = 10
    """Candidates per prompt, >= 2."""
    seed: int = 0
    """Seed of prompts and candidates."""
    pairing: PairOptions = field(default_factory=PairOptions)


@dataclass(frozen=True)
class ExamConfig:
    """Settings of the exam of policies before and after."""

    n: int = 200
    """Held-out prompts per task, >= 2."""
    seed: int = 0


@dataclass(frozen=True)
class AlignedPolicy:
    """A policy of a task and the settings of its DPO, either as a VLM or as a diffusion model."""

    policy: str
    """A folder, the name of a shipped policy or a hub id."""
    vlm: VLMDPO | None = None
    diffusion: DiffusionDPO | None = None
    prompts: int | None = None
    """Number of prompts; None for that of `PreferenceConfig`."""

    def preferences(self, defaults: PreferenceConfig) -> PreferenceConfig:
        """Return the defaults with this policy's number of prompts."""
        return replace(defaults, prompts=self.prompts or defaults.prompts)

    def dpo(self, pairs: Path) -> PolicyDPO:
        """Return the settings of its training on these pairs."""
        return PolicyDPO(self.policy, pairs, self.vlm, self.diffusion)


@dataclass(frozen=True)
class AlignmentConfig:
    """Policies to align by a judge, and their exam by the microworld's oracle."""

    policies: Mapping[Task, AlignedPolicy]
    judge: str = ""
    """A judge's reference; empty for the judge that the recipe trains."""
    preferences: PreferenceConfig = field(default_factory=PreferenceConfig)
    exam: ExamConfig = field(default_factory=ExamConfig)


def write_candidates(
    policy: str,
    task: Task,
    config: PreferenceConfig,
    out: Path,
    *,
    split: Split = "train",
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write prompts, and a policy's candidates for them, to ``candidates.jsonl``.

    Args:
        policy: A folder, the name of a shipped policy or a hub id.
        task: Task of the prompts.
        config: Numbers and seed of prompts and candidates.
        out: Folder to write into; an interrupted run is continued.
        split: ``test`` for held-out prompts.
        progress: Called with the number of prompts just done.

    Returns:
        Number of prompts that were ``generated`` and ``failed``.

    Raises:
        DataError: All prompts failed.
    """
    prompts = write_prompts(out, task=task, n=config.prompts, seed=config.seed, split=split)
    generator = policies.load(checkpoint_path(policy), batch_size=config.n)
    generator.name = policy
    work = CandidateWork(out, generator, config.n, config.seed)
    with open_journal(out / "candidates.jsonl") as journal:
        for chunk in judge_bulk.run(work, RowFile(prompts), journal, size=1):
            progress(len(chunk.rows))
    return _count(journal, "generated")


def write_pairs(
    candidates: Path,
    judge: str,
    options: PairOptions,
    out: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write the preference pairs that a judge makes of candidates.

    Args:
        candidates: Rows of candidates.
        judge: Reference of a judge, see `open_judge`.
        options: Strategy and thresholds.
        out: Pairs file; an interrupted run is continued.
        progress: Called with the number of prompts just done.

    Returns:
        Number of prompts that were ``kept``, ``dropped`` and ``failed``.

    Raises:
        DataError: No pair was kept.
    """
    work = bulk.PairWork(out.parent, judge, JudgeOptions(), options)
    with open_journal(out) as journal:
        read = partial(read_examples, candidates)
        for chunk in judge_bulk.run(work, read, journal, size=bulk.CHUNK):
            progress(len(chunk.rows))
    return _count(journal, "kept")


def _count(journal: Journal, required: str) -> Counter[str]:
    counts = Counter(journal.done.values())
    if not counts[required]:
        listed = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no rows"
        raise DataError(f"{journal.path} has no row with status {required}: {listed}")
    return counts


def examine_before_and_after(
    before: str | Path, after: Path, task: Task, judge: str, config: ExamConfig
) -> dict[str, Any]:
    """Examine two policies on the same prompts with the same noise.

    Returns:
        ``before`` and ``after``, each a `PolicyExam.report`; ``gain`` of the oracle's score with
        its interval, and ``gap_closed``, the share of the gap to a score of 1.
    """
    opened = open_judge(judge)
    first, second = (
        examine(
            policies.load(checkpoint_path(policy), batch_size=1),
            task,
            opened,
            n=config.n,
            seed=config.seed,
        )
        for policy in (before, after)
    )
    old, new = first.report(), second.report()
    return {
        "before": old,
        "after": new,
        "gain": second.gain_over(first).row(),
        "gap_closed": gap_closed(old["oracle"]["value"], new["oracle"]["value"]),
    }
