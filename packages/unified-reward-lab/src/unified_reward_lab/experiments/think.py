"""Thinking: a tiny judge that learns to reason by the three phases of UnifiedReward-Think.

It starts on chains of reasons that the microworld knows to be true. After rejection sampling, GRPO
on what it got wrong is compared with one more round of rejection sampling on the same comparisons,
with as many answers sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from unified_reward.bench.answer_exam import agree, examine_answers
from unified_reward.bench.metrics import mean_metric, paired_difference
from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_bytes
from unified_reward.io.config import as_data
from unified_reward.io.text import read_json, read_json_lines
from unified_reward.judges.card import CARD
from unified_reward.pairs.judge_answers import PairAnswer, both_orders, read_comparisons
from unified_reward.recipes.run import run as run_recipe
from unified_reward.recipes.stage import Recipe, Run
from unified_reward.recipes.stages import train_together
from unified_reward.train.grpo_vlm import VLMGRPO
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward.train.think import Sifting, ThinkTraining, learn_from_verdicts, sift_answers
from unified_reward.train.verdict_rewards import VerdictReward
from unified_reward_lab.examples import write_microworld
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import table, with_interval
from unified_reward_lab.microworld.reasons import reasons


_FAMILY = "compact-think"
_ARMS = ("start", "rejection", "grpo", "control", "unselected", "slow", "unpenalised")
_FIGURES = ("accuracy", "consistency", "exact", "ties", "tokens", "true_reasons")
_TEST_SEED = 1_000_003


def _optim(steps: int, lr: float) -> OptimConfig:
    """AdamW at this rate, hidden matrices by Muon at twice it."""
    return OptimConfig(steps=steps, batch_size=16, accumulate=1, lr=lr, muon_lr=2 * lr, warmup=0.05)


@dataclass(frozen=True)
class ThinkStudy:
    """Sizes and settings of the phases; one cold start serves all seeds."""

    work: Path = Path("runs/think")
    """Folder of data, judges and answers."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the comparisons that a judge answers, of sampling and of training."""
    base: str = "tiny_judge"
    chains: int = 4800
    """Comparisons with reasons for the cold start."""
    comparisons: int = 500
    """Comparisons to answer, per seed."""
    tests: int = 500
    """Held-out comparisons, >= 500 for the study."""
    cold_start: OptimConfig = field(default_factory=lambda: _optim(450, 8e-4))
    rejection: OptimConfig = field(default_factory=lambda: _optim(40, 2e-4))
    control: OptimConfig = field(default_factory=lambda: _optim(120, 2e-4))
    grpo: VLMGRPO = field(
        default_factory=lambda: VLMGRPO(
            replace(_optim(80, 2e-4), batch_size=64, muon_lr=0.0), beta=0.04, max_new_tokens=64
        )
    )
    reward: VerdictReward = field(default_factory=lambda: VerdictReward(cap=64, margin=13))

    @property
    def total(self) -> int:
        """Number of examinations."""
        return 7 * len(self.seeds)


def run(config: ThinkStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Run what is missing of the phases, by seed, and compare the arms on the same comparisons.

    Returns:
        By seed the reports of the phases and the figures of each arm; ``contrasts``, each the mean
        difference over seeds and held-out comparisons with its interval, of the accuracy, the
        consistency and the length.
    """
    data = config.work / "data"
    tests = _write(data / "tests", config.tests, _TEST_SEED, "test")
    chains = _write(data / "chains", config.chains, 0, "train")
    start = JudgeTraining(config.cold_start, base=config.base, data=str(chains), family=_FAMILY)
    run_recipe(Recipe(config.work / "start", {"judge": start}))
    seeds = {str(seed): _seed(config, seed, tests, progress) for seed in config.seeds}
    answers = {
        arm: {str(seed): _answers(config, seed, arm) for seed in config.seeds} for arm in _ARMS
    }
    pairs = (
        ("rejection", "start"),
        ("grpo", "rejection"),
        ("grpo", "control"),
        ("control", "rejection"),
        ("unselected", "grpo"),
        ("unselected", "rejection"),
        ("unselected", "control"),
        ("slow", "grpo"),
        ("slow", "rejection"),
        ("unpenalised", "slow"),
        ("unpenalised", "rejection"),
        ("unpenalised", "control"),
        ("unpenalised", "start"),
    )
    truths = _truths(tests)
    for arm, by_seed in answers.items():
        for seed, each in by_seed.items():
            seeds[seed]["arms"][arm] |= _reasoning(each, truths)
    failed = sum(arm["n_failed"] for each in seeds.values() for arm in each["arms"].values())
    return {
        "name": "think",
        "n": config.tests,
        "cap": config.reward.cap,
        "seeds": seeds,
        "contrasts": {
            f"{after} against {before}": _contrast(answers[before], answers[after])
            for after, before in pairs
        },
        "n_unparsed": 0,
        "n_failed": failed,
    }


def _write(folder: Path, n: int, seed: int, split: Any) -> Path:
    """Comparisons of generated images with reasons, as a file of rows."""
    rows = folder / "reasoned.jsonl"
    if not rows.exists():
        task = Task.IMAGE_GENERATION
        file = write_microworld(folder, task=task, forms=("compare",), n=n, seed=seed, split=split)
        texts: list[str] = []
        for _, row in read_json_lines(file):
            row["target"]["rationale"] = reasons(row["tags"])
            texts.append(json.dumps(row, allow_nan=False) + "\n")
        write_bytes(rows, "".join(texts).encode())
    return rows


def _seed(
    config: ThinkStudy, seed: int, tests: Path, progress: Callable[[int], None]
) -> dict[str, Any]:
    folder, start = config.work / str(seed), config.work / "start" / "judge"
    # Seed 0 is that of the chains.
    data = _write(config.work / "data" / str(seed), config.comparisons, seed + 1, "train")
    grpo = replace(config.grpo, optim=replace(config.grpo.optim, seed=seed))
    think = ThinkTraining(
        str(data),
        replace(config.rejection, seed=seed),
        grpo,
        base=str(start),
        family=_FAMILY,
        sifting=Sifting(seed=seed, batch_size=64),
        reward=config.reward,
        exam=str(tests),
    )
    state = Run(Recipe(folder, {"think": think}), lambda _: None)
    run_recipe(state.recipe)
    reports = read_json(folder / "report.json")
    progress(3)
    control = _more_rejection(config, state, reports, tests)
    wrong = folder / "think" / "answers" / "wrong.jsonl"
    slow = replace(think, grpo=replace(grpo, optim=replace(grpo.optim, lr=grpo.optim.lr / 4)))
    unpenalised = replace(slow, reward=replace(think.reward, margin=0))
    others = {
        "control": control,
        "unselected": _other_grpo(state, "unselected", think, data, tests),
        "slow": _other_grpo(state, "slow", slow, wrong, tests),
        "unpenalised": _other_grpo(state, "unpenalised", unpenalised, wrong, tests),
    }
    progress(4)
    arms = {arm: reports[f"think/exam/{arm}"] for arm in _ARMS[:3]}
    arms |= {arm: other.pop("exam") for arm, other in others.items()}
    phases = {name: reports[f"think/{name}"] for name in ("answers", "rejection", "grpo")}
    for other in others.values():
        phases |= other
    return {"arms": arms, "phases": {name: _summary(each) for name, each in phases.items()}}


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of a phase, and each of its curves as the means over its first and last ten steps."""
    counts = {name: value for name, value in report.items() if not isinstance(value, list)}
    curves = {name: value for name, value in report.items() if isinstance(value, list) and value}
    curves["losses"] = [loss for _, loss in curves.pop("losses", [])]
    means = {
        name: [round(fmean(part), 4) for part in (curve[:10], curve[-10:])]
        for name, curve in curves.items()
        if curve
    }
    return {name: value for name, value in {**counts, **means}.items() if name != "hash"}


def _more_rejection(
    config: ThinkStudy, state: Run, reports: Mapping[str, Any], tests: Path
) -> dict[str, Any]:
    """Another round of rejection sampling where GRPO learns, with about as many answers."""
    think: ThinkTraining = state.recipe.stages["think"]
    folder, learned = state.out / "control", state.out / "think" / "rejection"
    n_answers = think.grpo.optim.steps * think.grpo.optim.batch_size
    each = max(1, round(n_answers / (2 * reports["think/answers"]["wrong"])))
    sifting = replace(think.sifting, answers=each, seed=think.sifting.seed + 1)
    wrong = state.out / "think" / "answers" / "wrong.jsonl"
    again = replace(think, data=str(wrong), sifting=sifting)
    sifted, judge = folder / "answers", folder / "judge"
    optim = replace(config.control, seed=think.rejection.seed)
    training = think.supervised(str(learned), sifted / "kept.jsonl", optim)
    state.stage(
        "control/answers",
        sifting,
        [learned, wrong],
        sifted / "kept.jsonl",
        lambda: sift_answers(str(learned), again, sifted),
    )
    state.stage(
        "control/judge",
        training,
        [learned, training.data],
        judge / CARD,
        lambda: train_together(lambda: train_judge(training, judge)),
    )
    names = ("control/answers", "control/judge")
    exam = _examine(state, "control", judge, tests)
    return {"exam": exam} | {name: state.reports[name] for name in names}


def _other_grpo(
    state: Run, arm: str, think: ThinkTraining, data: str | Path, tests: Path
) -> dict[str, Any]:
    """GRPO after rejection sampling, on other comparisons or with other settings."""
    folder, learned = state.out / arm, state.out / "think" / "rejection"
    state.stage(
        f"{arm}/grpo",
        {"grpo": as_data(think.grpo), "reward": as_data(think.reward)},
        [learned, data],
        folder / "grpo" / "policy" / CARD,
        lambda: learn_from_verdicts(
            str(learned), Path(data), think.grpo, think.reward, folder / "grpo"
        ),
    )
    exam = _examine(state, arm, folder / "grpo" / "policy", tests)
    return {"exam": exam, f"{arm}/grpo": state.reports[f"{arm}/grpo"]}


def _examine(state: Run, arm: str, judge: Path, tests: Path) -> Mapping[str, Any]:
    think: ThinkTraining = state.recipe.stages["think"]
    answers = state.out / arm / "exam" / "answers.jsonl"
    options = {
        "max_new_tokens": think.grpo.max_new_tokens,
        "batch_size": think.sifting.batch_size,
    }
    state.stage(
        f"{arm}/exam",
        options,
        [judge, tests],
        answers,
        lambda: examine_answers(str(judge), read_comparisons(tests), answers, **options),
    )
    return state.reports[f"{arm}/exam"]


def _answers(config: ThinkStudy, seed: int, arm: str) -> list[PairAnswer]:
    folder = config.work / str(seed)
    place = f"{arm}/exam" if arm in _ARMS[3:] else f"think/exam/{arm}"
    return [PairAnswer(**row) for _, row in read_json_lines(folder / place / "answers.jsonl")]


def _truths(tests: Path) -> dict[tuple[str, bool], list[str]]:
    """True reasons about both candidates, by comparison and order."""
    truths: dict[tuple[str, bool], list[str]] = {}
    for example in read_comparisons(tests):
        for question in both_orders(example):
            truths[example.id, question.is_swapped] = reasons(question.example.tags).split(". ")
    return truths


def _reasoning(
    answers: Sequence[PairAnswer], truths: Mapping[tuple[str, bool], list[str]]
) -> dict[str, Any]:
    """Share of candidates whose reasons are exactly true, and the number of different answers."""
    shares: list[float] = []
    for answer in answers:
        reasoning = answer.text.partition("<think>")[2].partition("</think>")[0].split(". ")
        true = truths[answer.pair, answer.is_swapped]
        right = sum(part == fact for part, fact in zip(reasoning, true, strict=False))
        shares.append(right / len(true))
    metric = mean_metric(shares, [answer.pair for answer in answers])
    return {"true_reasons": metric.row(), "different": len({answer.text for answer in answers})}


def _contrast(
    before: Mapping[str, Sequence[PairAnswer]], after: Mapping[str, Sequence[PairAnswer]]
) -> dict[str, Any]:
    """Differences on the same comparisons; an interval is over comparisons, which seeds share."""
    columns = [_points(arm) for arm in (before, after)]
    differences = {}
    for name in ("accuracy", "consistency", "tokens"):
        first, second = (column[name] for column in columns)
        found = paired_difference(first, second, clusters=columns[0]["pair"])
        differences[name] = {"value": found.value, "ci95": [*found.ci95], "n": found.n}
    return differences


def _points(arm: Mapping[str, Sequence[PairAnswer]]) -> dict[str, list[Any]]:
    """Per comparison and seed: the share of right answers, 1 if both agree, the mean length."""
    pairs = [
        pair for answers in arm.values() for pair in zip(answers[::2], answers[1::2], strict=True)
    ]
    return {
        "pair": [given.pair for given, _ in pairs],
        "accuracy": [(given.is_right + swapped.is_right) / 2 for given, swapped in pairs],
        "consistency": [float(agree(given, swapped)) for given, swapped in pairs],
        "tokens": [(given.n_tokens + swapped.n_tokens) / 2 for given, swapped in pairs],
    }


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    rows = [
        [seed, arm, *(with_interval(figures[name]) for name in _FIGURES), figures["different"]]
        for seed, each in report["seeds"].items()
        for arm, figures in each["arms"].items()
    ]
    contrasts = [
        [name, *(with_interval(each[figure]) for figure in ("accuracy", "consistency", "tokens"))]
        for name, each in report["contrasts"].items()
    ]
    heads = [name.replace("_", " ") for name in _FIGURES]
    lines = [
        "## A judge that thinks",
        "",
        f"Greedy answers to {report['n']} held-out comparisons of generated images, each in both "
        "orders. An answer is right if it states exactly the labelled outcome, of which a tie is "
        f"one; tokens are capped at {report['cap']}. Reasons are true of a candidate if they state "
        "the numbers of facts and the flaw exactly.",
        "",
        *table(["seed", "judge", *heads, "different answers"], rows),
        "",
        "Differences on the same comparisons, over all seeds:",
        "",
        *table(["contrast", "accuracy", "consistency", "tokens"], contrasts),
    ]
    return "\n".join(lines) + "\n"


EXPERIMENT = Experiment(ThinkStudy, run, page)
