"""Reinforcement learning: policies that learn from a judge's rewards, examined by the oracle.

Four questions: GRPO and DiffusionNFT against DPO at equal cost; which judge makes the best reward
(Table XIII of arXiv:2503.05236); where a reward is over-optimised; what failed rewards do. Every
training is kept in ``work`` by arm and seed, so that an interrupted study is continued.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_json
from unified_reward.io.run_config import check_run_config
from unified_reward.io.text import read_json
from unified_reward.judges.registry import open_judge
from unified_reward_lab.alignment import ExamConfig
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.reinforcement_arms import ARMS, EXAMINERS, PARTS, Arm
from unified_reward_lab.experiments.reinforcement_exam import POLICIES, exam_samples, train
from unified_reward_lab.experiments.reinforcement_judges import make_judge
from unified_reward_lab.experiments.reinforcement_page import page, plot
from unified_reward_lab.experiments.reinforcement_report import build_report
from unified_reward_lab.experiments.reinforcement_rewards import oracle_score, scores


@dataclass(frozen=True)
class ReinforcementStudy:
    """Questions, and the exam."""

    work: Path = Path("runs/reinforcement")
    """Folder of judges and arms; what exists there is not repeated."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Questions to answer, see `PARTS`."""
    exam: ExamConfig = field(default_factory=lambda: ExamConfig(n=500, seed=20261130))
    collect: bool = False
    """Report the trainings that are there, and start none."""

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - PARTS.keys():
            raise ConfigError(f"there are {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
        if self.exam.n < 2:
            raise ConfigError(f"an exam needs at least two prompts, given {self.exam.n}")

    @property
    def total(self) -> int:
        """Number of trainings."""
        return len([*trainings(self.parts)])


def trainings(parts: Sequence[str]) -> Iterator[tuple[Arm, int]]:
    """List each training with its seed once: by question, and first seeds before second ones."""
    listed: dict[tuple[str, int], Arm] = {}
    for part in parts:
        arms = [ARMS[name] for name in PARTS[part]]
        for seed in range(max(arm.seeds for arm in arms)):
            listed |= {(arm.name, seed): arm for arm in arms if seed < arm.seeds}
    for (_, seed), arm in listed.items():
        yield arm, seed


def run(
    study: ReinforcementStudy, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train and examine what is missing, and collect the results; see `build_report`."""

    @cache
    def open_named(name: str) -> BaseJudge:
        return open_judge(make_judge(study.work, name))

    for arm, seed in trainings(study.parts):
        folder = study.work / arm.name / str(seed)
        file = folder / "result.json"
        check_run_config(file, {"arm": asdict(arm), "seed": seed}, {})
        if not file.exists() and not study.collect:
            # A training is short, and costs are counted as a whole: it begins again.
            shutil.rmtree(folder, ignore_errors=True)
            check_run_config(file, {"arm": asdict(arm), "seed": seed}, {})
            write_json(file, train(arm, seed, open_named, folder))
            _examine(study, arm.task, folder / "policy", folder, ("unified",), open_named)
        progress(1)
    done: dict[str, list[dict[str, Any]]] = {}
    before: dict[str, dict[str, Any]] = {}
    for part in study.parts:
        for name in PARTS[part]:
            task = ARMS[name].task
            judges = EXAMINERS[part]
            before[task.value] = before.get(task.value, {}) | _examine(
                study,
                task,
                checkpoint_path(POLICIES[task]),
                study.work / task.value,
                judges,
                open_named,
            )
            folders = [study.work / name / str(seed) for seed in range(ARMS[name].seeds)]
            done[name] = [
                read_json(folder / "result.json")
                | _examine(study, task, folder / "policy", folder, judges, open_named)
                for folder in folders
                if (folder / "result.json").exists()
            ]
    return build_report(before, {name: each for name, each in done.items() if each}, study.exam)


def _examine(
    study: ReinforcementStudy,
    task: Task,
    policy: Path,
    folder: Path,
    judges: Sequence[str],
    open_named: Callable[[str], BaseJudge],
) -> dict[str, Any]:
    """Scores of a policy's exam by the oracle and by judges; each is kept in a file."""
    exam = study.exam
    stem = f"exam-{exam.seed}-{exam.n}"
    file = folder / f"{stem}.json"
    kept = read_json(file) if file.exists() else {"rewards": {}}
    missing = [name for name in judges if name not in kept["rewards"]]
    if missing or "oracle" not in kept:
        samples = exam_samples(policy, task, exam, folder / f"{stem}.npz")
        kept.setdefault("oracle", [oracle_score(sample) for sample in samples])
        kept["rewards"] |= {name: scores(open_named(name), samples) for name in missing}
        write_json(file, kept)
    return kept


EXPERIMENT = Experiment(ReinforcementStudy, run, page, plot)
