"""From prompts to an aligned policy: candidates, pairs and DPO, each in a folder, resumable.

Glue between the stages, for the pipeline and for experiments; it decides nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unified_reward import policies
from unified_reward.core.errors import DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.judges import bulk as judge_bulk
from unified_reward.judges.registry import JudgeOptions, open_judge
from unified_reward.pairs import bulk
from unified_reward.pairs.strategies import PairOptions
from unified_reward.policies.candidates import make_candidates
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward_lab.bench.oracle import examine, gap_closed
from unified_reward_lab.examples import write_prompts


_PROMPTS = 16
"""Prompts that the judge is asked about together."""


@dataclass(frozen=True)
class PreferenceConfig:
    """How pairs are made of what a policy makes of prompts of the microworld."""

    prompts: int = 64
    """Of the training split, >= 1."""
    n: int = 10
    """Candidates of a prompt, >= 2."""
    seed: int = 0
    """Of prompts and candidates."""
    pairing: PairOptions = field(default_factory=PairOptions)


@dataclass(frozen=True)
class ExamConfig:
    """On what policies are examined before and after."""

    n: int = 200
    """Held-out prompts of a task, >= 2."""
    seed: int = 0


@dataclass(frozen=True)
class AlignedPolicy:
    """A policy of a task, and how it is aligned: as one or the other kind."""

    policy: str
    """A folder, the name of a shipped policy or a hub id."""
    vlm: VLMDPO | None = None
    diffusion: DiffusionDPO | None = None
    prompts: int | None = None
    """In place of the number in `PreferenceConfig`."""

    def asked(self, how: PreferenceConfig) -> PreferenceConfig:
        """How its pairs are made."""
        return replace(how, prompts=self.prompts or how.prompts)

    def on(self, pairs: Path) -> PolicyDPO:
        """The training on these pairs."""
        return PolicyDPO(self.policy, pairs, self.vlm, self.diffusion)


@dataclass(frozen=True)
class AlignmentConfig:
    """Policies aligned by a judge and examined by the microworld's oracle."""

    policies: Mapping[Task, AlignedPolicy]
    judge: str = ""
    """A judge's reference; empty for the judge that the recipe trains."""
    preferences: PreferenceConfig = field(default_factory=PreferenceConfig)
    exam: ExamConfig = field(default_factory=ExamConfig)


def write_candidates(
    policy: str,
    task: Task,
    how: PreferenceConfig,
    out: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write prompts, and what a policy makes of them, to ``candidates.jsonl``.

    Args:
        policy: A folder, the name of a shipped policy or a hub id.
        task: One that it is for.
        how: Prompts and candidates.
        out: Folder to write into; a run that was stopped goes on.
        progress: Called with the number of prompts just done.

    Returns:
        How many prompts were ``generated`` and ``failed``.

    Raises:
        DataError: All prompts failed.
    """
    prompts = write_prompts(out, task=task, n=how.prompts, seed=how.seed, split="train")
    maker = policies.load(checkpoint_path(policy), batch_size=how.n)
    maker.name = policy
    journal = Journal(out / "candidates.jsonl")
    for _ in make_candidates(read_examples(prompts), journal, maker, n=how.n, seed=how.seed):
        progress(1)
    return _counted(journal, "generated")


def write_pairs(
    candidates: Path,
    judge: str,
    how: PairOptions,
    out: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write what a judge prefers among candidates.

    Args:
        candidates: Their rows.
        judge: A reference, see `open_judge`.
        how: Strategy and thresholds.
        out: The pairs file; a run that was stopped goes on.
        progress: Called with the number of prompts just done.

    Returns:
        How many prompts were ``kept``, ``dropped`` and ``failed``.

    Raises:
        DataError: No pair was kept.
    """
    work = bulk.PairWork(out.parent, judge, JudgeOptions(), how)
    journal = Journal(out)
    check_run_config(out, {"judge": judge} | asdict(how))
    for chunk in judge_bulk.run(work, read_examples(candidates), journal, size=_PROMPTS):
        progress(len(chunk.rows))
    return _counted(journal, "kept")


def _counted(journal: Journal, wanted: str) -> Counter[str]:
    counts = Counter(journal.done.values())
    if not counts[wanted]:
        told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no rows"
        raise DataError(f"{journal.path} has no row that is {wanted}: {told}")
    return counts


def examine_before_and_after(
    before: str | Path, after: Path, task: Task, judge: str, how: ExamConfig
) -> Any:
    """What a policy is worth before and after, on the same prompts with the same noise.

    Returns:
        ``before`` and ``after``, each a `PolicyExam.report`; ``gain`` of the oracle with its
        interval, and the share of the gap to a worth of 1 that is ``closed``.
    """
    asked = open_judge(judge)
    first, second = (
        examine(
            policies.load(checkpoint_path(one), batch_size=1), task, asked, n=how.n, seed=how.seed
        )
        for one in (before, after)
    )
    told = {"before": first.report(), "after": second.report()}
    closed = gap_closed(told["before"]["oracle"]["value"], told["after"]["oracle"]["value"])
    return told | {"gain": second.gain_over(first).row(), "gap_closed": closed}
