"""The stages of ``unified-reward run``, each skipped when it is done already.

A stage is done when its ``report.json`` carries the hash of its configuration and of its inputs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate import PartialState

from unified_reward.bench.calibration import fit_calibration
from unified_reward.bench.run import run_benchmark
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.config import as_data
from unified_reward.judges.card import CARD
from unified_reward.judges.registry import JudgeOptions, open_checkpoint, open_judge
from unified_reward.policies import DEFAULTS
from unified_reward.train.dpo import PolicyDPO, align
from unified_reward.train.dry_run import DryRun, dry_run
from unified_reward.train.dry_run_dpo import dry_run_dpo
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward_lab.alignment import (
    AlignmentConfig,
    examine_before_and_after,
    write_candidates,
    write_pairs,
)
from unified_reward_lab.bench.showcase import Showcase, write_showcase
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.microworld import make_example
from unified_reward_lab.train.generators import GeneratorTraining, train_generator
from unified_reward_lab.train.tiny import TinyPretraining, pretrain
from unified_reward_lab.train.tiny_vlm import TinyVLMTraining, train_tiny_vlm


Tell = Callable[[str], None]


@dataclass(frozen=True)
class MicroworldBench:
    """How the judge is measured."""

    n: int = 200
    """Test items a cell, >= 3."""
    seed: int = 0
    orders: Literal[1, 2] = 2


@dataclass(frozen=True)
class CalibrationItems:
    """On what the judge's temperatures are fitted: new microworld items of training captions."""

    n: int = 200
    """Items of each cell that the judge was taught, > 0."""
    seed: int = 1_000_003
    """Names the series; it must not be the seed of the training."""


@dataclass(frozen=True)
class Recipe:
    """A run: the stages that are named, in this order."""

    out: Path
    """Folder of the run; each stage has a folder in it."""
    base: TinyPretraining | None = None
    speaker: TinyVLMTraining | None = None
    generator: GeneratorTraining | None = None
    judge: JudgeTraining | None = None
    calibration: CalibrationItems | None = None
    bench: MicroworldBench | None = None
    align: AlignmentConfig | None = None
    dpo: PolicyDPO | None = None
    showcase: Showcase | None = None


def run(recipe: Recipe, log: Tell = lambda _: None) -> dict[str, Any]:
    """Run the stages of a recipe that are not done, and write ``report.json`` beside them.

    Under a launcher of several processes all of them train, and one does the rest.

    Args:
        recipe: What to do.
        log: Called with a line for people before and after every stage.

    Returns:
        The report: every stage's own, and ``judge.<task>.<form>`` with value, ci95 and n.
    """
    if recipe.align and PartialState().num_processes > 1:
        raise ConfigError("align runs in one process; launch a recipe with dpo with several")
    stages = [one.name for one in fields(recipe) if one.name != "out"]
    if not any(getattr(recipe, name) for name in stages):
        raise ConfigError(f"the recipe names no stage: {', '.join(stages)}")
    run = _Run(recipe.out, log)
    out = recipe.out
    _policies(recipe, run, log)
    base, judge = Path("tiny_base"), checkpoint_path("tiny_judge")
    if taught := recipe.base:
        base = out / "base"
        run.stage("base", taught, [], base, lambda: _trained(lambda: pretrain(taught, base)))
    if recipe.judge:
        start = recipe.judge.base or str(base)
        judge, config = out / "judge", replace(recipe.judge, base=start)
        run.stage(
            "judge",
            config,
            [checkpoint_path(start), config.data],
            judge / CARD,
            lambda: _trained(lambda: train_judge(config, judge)),
        )
    if not PartialState().is_main_process:
        return {}
    if recipe.calibration:
        _calibration(recipe.judge, recipe.calibration, judge, run)
    if recipe.bench:
        asked = recipe.bench
        run.stage("bench", asked, [judge, judge / CARD], out, lambda: _measure(judge, asked))
    aligned = _aligned(recipe.align, str(judge), run, out) if recipe.align else {}
    if recipe.showcase:
        shown = recipe.showcase
        page = out / "report.html"
        told = [out / name / "report.json" for name in run.reports]
        run.stage(
            "showcase",
            shown,
            [judge, *told],
            page,
            lambda: write_showcase(open_judge(judge), shown, run.reports, page, aligned),
        )
        log(f"open {page}")
    report = {**run.reports, **_cells(run.reports.get("bench")), **_gains(run.reports)}
    _write_json(out / "report.json", report)
    return report


def _policies(recipe: Recipe, run: _Run, log: Tell) -> None:
    """Make tiny policies, and align the one policy of ``dpo``."""
    out = recipe.out
    if spoken := recipe.speaker:
        folder = out / "speaker"
        work = partial(_trained, lambda: train_tiny_vlm(spoken, folder))
        run.stage("speaker", spoken, [checkpoint_path(spoken.base)], folder / DEFAULTS, work)
    if drawn := recipe.generator:
        folder = out / "generator"
        work = partial(_trained, lambda: train_generator(drawn, folder))
        run.stage("generator", drawn, [], folder / DEFAULTS, work)
    if dpo := recipe.dpo:
        folder = out / "dpo"
        policy = checkpoint_path(dpo.policy)
        inputs = [policy, dpo.pairs]
        run.stage(
            "dpo",
            dpo,
            inputs,
            folder / DEFAULTS,
            lambda: align(dpo.pairs, policy, dpo.training, folder, log=log),
        )


def _aligned(
    config: AlignmentConfig, judge: str, run: _Run, out: Path
) -> dict[Task, tuple[str, Path]]:
    """Candidates, pairs, DPO and exam of every policy; each policy before and after."""
    made: dict[Task, tuple[str, Path]] = {}
    exam = config.exam
    for task, one in config.policies.items():
        how = one.asked(config.preferences)
        folder, policy = out / task.value, checkpoint_path(one.policy)
        drawn, pairs = folder / "candidates" / "candidates.jsonl", folder / "pairs" / "pairs.jsonl"
        after = folder / "dpo"
        dpo = one.on(pairs)
        run.stage(
            f"{task.value}/candidates",
            {"preferences": as_data(how), "policy": one.policy},
            [policy],
            drawn,
            partial(write_candidates, one.policy, task, how, drawn.parent),
        )
        run.stage(
            f"{task.value}/pairs",
            how.pairing,
            [drawn, judge, Path(judge) / CARD],
            pairs,
            partial(write_pairs, drawn, judge, how.pairing, pairs),
        )
        run.stage(
            f"{task.value}/dpo",
            dpo,
            [pairs, policy],
            after / DEFAULTS,
            partial(align, pairs, policy, dpo.training, after, log=run.log),
        )
        run.stage(
            f"{task.value}/exam",
            exam,
            [policy, after, judge, Path(judge) / CARD],
            after / DEFAULTS,
            partial(examine_before_and_after, one.policy, after, task, judge, exam),
        )
        made[task] = (one.policy, after)
    return made


def _gains(reports: Mapping[str, Any]) -> dict[str, Any]:
    """Oracle and judge before and after, the figures that the outside reads."""
    told: dict[str, Any] = {}
    for name, report in reports.items():
        task, _, stage = name.partition("/")
        if stage == "exam":
            for side in ("before", "after"):
                told[f"dpo.{task}.{side}"] = report[side]["oracle"]
                told[f"dpo.{task}.judge_reward.{side}"] = report[side]["judge_reward"]
    return told


def rehearse(recipe: Recipe, launch: str = "") -> DryRun:
    """Build everything of a recipe's judge, or else of its ``dpo``, but the weights.

    Args:
        recipe: With one of them; its other stages are checked as far as their options go.
        launch: A configuration of accelerate; empty without a launcher.

    Raises:
        ConfigError: The recipe has neither, or something does not fit.
    """
    if recipe.judge:
        return dry_run(recipe.judge, launch)
    if recipe.dpo:
        return dry_run_dpo(recipe.dpo, launch)
    raise ConfigError("a dry run is of judge or dpo, and the recipe has neither")


class _Run:
    """What the stages of one run share."""

    def __init__(self, out: Path, log: Tell) -> None:
        self.reports: dict[str, Any] = {}
        self.log = log
        self._out = out

    def stage(
        self,
        name: str,
        config: Any,
        inputs: Sequence[str | Path],
        product: Path,
        work: Callable[[], Any],
    ) -> None:
        """Do a stage, unless it was done with the same config and inputs and its product stands."""
        folder = self._out / name
        for one in inputs:
            if Path(one).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"{name} would be written over {one}, which it is made of; "
                    f"name another folder than out={self._out}"
                )
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "report.json"
        mark = _hash(as_data(config), inputs)
        known = _read_report(file)
        if known.get("hash") == mark and product.exists():
            self.log(f"{name}: done before, in {folder}")
            self.reports[name] = known
            return
        self.log(f"{name}: {folder}")
        if PartialState().is_main_process:
            _begin(folder, mark)
        report = {**work(), "hash": mark}
        if PartialState().is_main_process:
            (folder / "config.yaml").write_text(yaml.safe_dump(as_data(config)), "utf-8")
            _write_json(folder / "environment.json", _environment())
            _write_json(file, report)
        self.reports[name] = report


def _read_report(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}


def _begin(folder: Path, mark: str) -> None:
    """Forget what another configuration left; a killed run of this one goes on from its own."""
    started = folder / "started"
    if started.exists() and started.read_text("utf-8") != mark:
        shutil.rmtree(folder)
        folder.mkdir()
    (folder / "report.json").unlink(missing_ok=True)
    started.write_text(mark, "utf-8")


def _trained(train: Callable[[], Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Train on all processes, while the first one clears the folder before and writes it after."""
    state = PartialState()
    state.wait_for_everyone()
    losses = train()
    state.wait_for_everyone()
    return {"losses": [list(one) for one in losses]}


def _calibration(
    taught: JudgeTraining | None, items: CalibrationItems, judge: Path, run: _Run
) -> None:
    if not taught:
        raise ConfigError("calibration is written into the judge that the recipe trains")
    cells = [cell for cell, weight in taught.cells.items() if weight > 0]
    work = partial(_calibrated, judge, items, cells)
    run.stage("calibration", items, [judge], judge / CARD, work)


def _calibrated(folder: Path, items: CalibrationItems, cells: Sequence[str]) -> dict[str, Any]:
    """Fit the temperatures on the cells it was taught, and write them into the card."""
    judge = open_checkpoint(str(folder), folder, JudgeOptions())
    records = [
        make_example(*(CELLS | EDITING)[cell], split="train", seed=items.seed, index=i)
        for cell in cells
        for i in range(items.n)
    ]
    fitted = fit_calibration(judge, records)
    replace(judge.card, calibration=fitted).write(folder)
    return {"n": len(records), **asdict(fitted)}


def _measure(folder: Path, asked: MicroworldBench) -> dict[str, Any]:
    return run_benchmark(
        "microworld", open_judge(folder), limit=asked.n, seed=asked.seed, orders=asked.orders
    ).report


def _cells(bench: dict[str, Any] | None) -> dict[str, Any]:
    """The one figure a cell that the outside reads."""
    if not bench:
        return {}
    figures = {"score": "spearman", "compare": "pair_accuracy"}
    told = {cell: row[figures[cell.rpartition(".")[2]]] for cell, row in bench["groups"].items()}
    return {
        f"judge.{cell}": {key: figure[key] for key in ("value", "ci95", "n")}
        for cell, figure in told.items()
    }


def _hash(config: Any, inputs: Sequence[str | Path]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for source in inputs:
        path = Path(source)
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        digest.update(str(source).encode() if not path.is_dir() else b"")
        for file in files:
            if file.is_file() and "checkpoints" not in file.parts:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _environment() -> dict[str, str]:
    packages = ("unified-reward", "torch", "transformers", "trl", "accelerate", "numpy")
    versions = {name: version(name) for name in packages}
    return {"python": sys.version.split()[0], "machine": platform.machine(), **versions}


def _write_json(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)
