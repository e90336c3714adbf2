"""Stages that the laboratory adds to recipes: tiny checkpoints, alignment, the showcase page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.config import as_data
from unified_reward.judges.card import CARD
from unified_reward.judges.registry import open_judge
from unified_reward.policies import DEFAULTS
from unified_reward.recipes.stage import Recipe, Run, Stage
from unified_reward.recipes.stages import judge_of, train_together
from unified_reward.train.dpo import align
from unified_reward_lab.alignment import (
    AlignmentConfig,
    examine_before_and_after,
    write_candidates,
    write_pairs,
)
from unified_reward_lab.bench.showcase import Showcase, write_showcase
from unified_reward_lab.train.generators import GeneratorTraining, train_generator
from unified_reward_lab.train.tiny import TinyPretraining, pretrain
from unified_reward_lab.train.tiny_vlm import TinyVLMTraining, train_tiny_vlm


def _base(config: TinyPretraining, run: Run) -> None:
    folder = run.out / "base"
    run.stage("base", config, [], folder, lambda: train_together(lambda: pretrain(config, folder)))
    run.products["base"] = folder


def _speaker(config: TinyVLMTraining, run: Run) -> None:
    folder = run.out / "speaker"
    work = partial(train_together, lambda: train_tiny_vlm(config, folder))
    run.stage("speaker", config, [checkpoint_path(config.base)], folder / DEFAULTS, work)


def _generator(config: GeneratorTraining, run: Run) -> None:
    folder = run.out / "generator"
    work = partial(train_together, lambda: train_generator(config, folder))
    run.stage("generator", config, [], folder / DEFAULTS, work)


def _check_align(_: AlignmentConfig, __: Recipe) -> None:
    if PartialState().num_processes > 1:
        raise ConfigError("align runs in one process; launch a recipe with dpo with several")


def _align(config: AlignmentConfig, run: Run) -> None:
    """Candidates, pairs, DPO and exam of every policy."""
    judge = judge_of(config.judge, run)
    for task in config.policies:
        _align_policy(config, task, judge, run)
        exam = run.reports[f"{task.value}/exam"]
        for side in ("before", "after"):
            run.figures[f"dpo.{task.value}.{side}"] = exam[side]["oracle"]
            run.figures[f"dpo.{task.value}.judge_reward.{side}"] = exam[side]["judge_reward"]


def _align_policy(config: AlignmentConfig, task: Task, judge: str, run: Run) -> None:
    policy = config.policies[task]
    preferences = policy.preferences(config.preferences)
    folder, source = run.out / task.value, checkpoint_path(policy.policy)
    candidates = folder / "candidates" / "candidates.jsonl"
    pairs, aligned = folder / "pairs" / "pairs.jsonl", folder / "dpo"
    weights = checkpoint_path(judge)
    dpo = policy.dpo(pairs)
    run.stage(
        f"{task.value}/candidates",
        {"preferences": as_data(preferences), "policy": policy.policy},
        [source],
        candidates,
        partial(write_candidates, policy.policy, task, preferences, candidates.parent),
    )
    run.stage(
        f"{task.value}/pairs",
        preferences.pairing,
        [candidates, weights, weights / CARD],
        pairs,
        partial(write_pairs, candidates, judge, preferences.pairing, pairs),
    )
    run.stage(
        f"{task.value}/dpo",
        dpo,
        [pairs, source],
        aligned / DEFAULTS,
        partial(align, pairs, source, dpo.training, aligned, log=run.log),
    )
    run.stage(
        f"{task.value}/exam",
        config.exam,
        [source, aligned, weights, weights / CARD],
        aligned / DEFAULTS,
        partial(examine_before_and_after, policy.policy, aligned, task, judge, config.exam),
    )
    run.products[task.value] = aligned


@dataclass(frozen=True)
class ShowcaseStage(Showcase):
    """Options of the page."""

    judge: str = ""
    """A judge's reference; empty for the judge that the recipe trains."""


def _showcase(config: ShowcaseStage, run: Run) -> None:
    judge, page = judge_of(config.judge, run), run.out / "report.html"
    reports: list[str | Path] = [run.out / name / "report.json" for name in run.reports]
    alignment: AlignmentConfig | None = run.recipe.stages.get("align")
    aligned = {
        task: (policy.policy, run.products[task.value])
        for task, policy in (alignment.policies if alignment else {}).items()
    }

    def work() -> dict[str, Any]:
        return write_showcase(open_judge(judge), config, run.reports, page, aligned)

    run.stage("showcase", config, [checkpoint_path(judge), *reports], page, work)
    run.log(f"open {page}")


BASE = Stage("base", TinyPretraining, _base, every_process=True)
SPEAKER = Stage("speaker", TinyVLMTraining, _speaker, every_process=True)
GENERATOR = Stage("generator", GeneratorTraining, _generator, every_process=True)
ALIGN = Stage("align", AlignmentConfig, _align, _check_align)
SHOWCASE = Stage("showcase", ShowcaseStage, _showcase)
