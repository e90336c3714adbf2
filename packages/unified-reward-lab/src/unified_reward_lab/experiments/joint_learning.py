"""Joint learning: judges trained on four tasks together against judges of a single task.

The central claim of arXiv:2503.05236 (Table IX, steps matched), where the truth is known. A joint
judge and a single one are trained for the same number of steps on the same examples of the task;
the single one sees them four times in the steps in which the joint one sees the other tasks. The
control is a world whose images and videos have no colour and no shape in common.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Example, Form, Task
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Scored, Verdict
from unified_reward.io.atomic import write_json
from unified_reward.io.text import read_json
from unified_reward.judges.card import Card
from unified_reward.judges.registry import open_judge
from unified_reward.train.judge import JudgeLabels, JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward.train.scalar import ScalarCollator
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import png, table, with_interval
from unified_reward_lab.microworld import HALF_WORLDS, Split, make_example
from unified_reward_lab.microworld.items import TASKS, VIDEO_TASKS


WORLDS = ("shared", "apart")
_FIGURES = {"compare": "pair accuracy", "score": "Spearman"}
_FORMS: tuple[Form, ...] = ("score", "compare")
_CARD = Card("compact", frames=4)
_CHUNK = 128
_RESAMPLES = 1000


@dataclass(frozen=True)
class JointLearningStudy:
    """Trainings, and the examples they are tested on."""

    runs: Path
    """Folder of the judges and their answers; what exists there is not repeated."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            steps=320, batch_size=32, accumulate=1, lr=5e-4, muon_lr=1e-3
        )
    )
    """Settings of every training; ``steps`` must be a multiple of eight."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds in pairs 2k, 2k + 1; even ones learn one half of the world, odd ones the other."""
    n: int = 1500
    """Test examples per cell and half of the world."""
    test_seed: int = 20261125
    split: Split = "test"
    """Captions to test on; ``train`` to choose settings without the test captions."""

    def __post_init__(self) -> None:
        if self.optim.steps % (2 * len(TASKS)):
            raise ConfigError(
                f"steps must be a multiple of {2 * len(TASKS)}, given {self.optim.steps}"
            )
        if any(seed ^ 1 not in self.seeds for seed in self.seeds):
            raise ConfigError(f"seeds must come in pairs 2k and 2k + 1, given {self.seeds}")

    @property
    def total(self) -> int:
        """Number of judges."""
        return len(_runs(self.seeds))


class _Part(NamedTuple):
    """Training examples of one task."""

    task: Task
    half: str
    seed: int


class _Run(NamedTuple):
    """Training of one judge."""

    name: str
    seed: int
    parts: tuple[_Part, ...]


def _part(task: Task, seed: int) -> _Part:
    return _Part(task, "ab"[seed % 2], seed)


def _runs(seeds: Sequence[int]) -> list[_Run]:
    """A single judge per task, a joint one, and a joint one with videos of the other half."""
    runs: list[_Run] = []
    for seed in seeds:
        runs += [_Run(f"{task}-{seed}", seed, (_part(task, seed),)) for task in TASKS]
        runs += [_Run(f"{w}-{seed}", seed, _joint_parts(w, seed)) for w in WORLDS]
    return runs


def _joint_parts(world: str, seed: int) -> tuple[_Part, ...]:
    apart = world == "apart"
    return tuple(_part(task, seed ^ (apart and task in VIDEO_TASKS)) for task in TASKS)


class _TrainingSeries:
    """Training examples of some parts, in blocks of one cell by turns, repeated as needed."""

    def __init__(self, parts: Sequence[_Part], optim: OptimConfig) -> None:
        self.parts = parts
        self.block = optim.batch_size * optim.accumulate
        self._n = optim.steps * self.block
        self.items_a_cell = self._n // (2 * len(TASKS))

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Example:
        block, place = divmod(index, self.block)
        turn, cell = divmod(block, 2 * len(self.parts))
        part = self.parts[cell // 2]
        return make_example(
            part.task,
            _FORMS[cell % 2],
            split="train",
            seed=part.seed,
            index=(turn * self.block + place) % self.items_a_cell,
            world=HALF_WORLDS[part.half],
        )


def run(
    config: JointLearningStudy, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train the judges that are missing, test them and compare joint with single training.

    Several processes can share the work, each with its own pairs of seeds; a last one with all
    seeds then only collects the results.

    Returns:
        By world and cell: ``joint``, ``single`` and their difference ``gain``, of pair accuracy
        (comparisons without ties of the label) or of Spearman's correlation (scores): means over
        seeds, intervals by a bootstrap over prompts and seeds with the same resamples for both.
        ``sharing`` is the gain in the shared world minus that in the other.
    """
    results: dict[str, Any] = {}
    for each in _runs(config.seeds):
        file = config.runs / f"{each.name}.json"
        if not file.exists():
            write_json(file, _train_and_test(each, config))
        results[each.name] = read_json(file)
        progress(1)
    tokens = {name: result["tokens"] for name, result in results.items()}
    return {
        "name": "joint_learning",
        "seeds": list(config.seeds),
        "steps": config.optim.steps,
        "batch_size": config.optim.batch_size * config.optim.accumulate,
        "items_a_cell": _TrainingSeries((), config.optim).items_a_cell,
        "n": config.n,
        "test_seed": config.test_seed,
        "split": config.split,
        "core_minutes": sum(result["seconds"] for result in results.values()) / 60,
        "tokens": {name: tokens[f"{name}-{config.seeds[0]}"] for name in (*TASKS, *WORLDS)},
        "n_unparsed": 0,
        "n_failed": sum(result["n_failed"] for result in results.values()),
        "cells": {cell: _contrast(cell, results, config.seeds) for cell in CELLS},
    }


def _train_and_test(each: _Run, config: JointLearningStudy) -> dict[str, Any]:
    """Train a judge, and return its answers to the test examples of the cells it learned."""
    folder, began = config.runs / each.name, time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    series = _TrainingSeries(each.parts, config.optim)
    optim = replace(config.optim, seed=each.seed)
    training = JudgeTraining(
        optim, "tiny_base", head="scalar", family=_CARD.family, frames=_CARD.frames
    )
    train_judge(training, folder, series)
    judge = open_judge(folder)
    cells: dict[str, Any] = {}
    n_failed = 0
    for part in each.parts:
        for form in _FORMS:
            rows: list[tuple[str, float, float | None]] = []
            for start in range(0, config.n, _CHUNK):
                indices = range(start, min(start + _CHUNK, config.n))
                examples = [_test_example(part, form, config, i) for i in indices]
                verdicts = judge.ask([example.sample for example in examples])
                rows += map(_row, examples, verdicts)
            cells[f"{part.task}.{form}"] = rows
            n_failed += sum(answer is None for _, _, answer in rows)
    seconds = time.process_time() - began
    tokens = _tokens(series, config.optim)
    return {"cells": cells, "seconds": seconds, "tokens": tokens, "n_failed": n_failed}


def _tokens(series: _TrainingSeries, optim: OptimConfig) -> int:
    """Tokens of all batches with padding, estimated from the first block of each cell."""
    chat = load_vlm(checkpoint_path("tiny_base"), dtype="float32").chat
    collate = ScalarCollator(chat, JudgeLabels(series, _CARD, ()))
    block, n_cells = series.block, 2 * len(series.parts)
    first = sum(
        collate([{"row": cell * block + i} for i in range(block)])["input_ids"].numel()
        for cell in range(n_cells)
    )
    return first * optim.steps // n_cells


def _test_example(part: _Part, form: Form, config: JointLearningStudy, index: int) -> Example:
    return make_example(
        part.task,
        form,
        split=config.split,
        seed=config.test_seed,
        index=index,
        world=HALF_WORLDS[part.half],
    )


def _row(example: Example, verdict: Verdict) -> tuple[str, float, float | None]:
    """Prompt, label and answer of the judge: the probability of the first, or the score."""
    target, answer = example.target, None
    label = target.score if target.winner is None else WIN_SHARES[target.winner]
    if isinstance(verdict, Preferred):
        answer = verdict.probability
    elif isinstance(verdict, Scored) and verdict.score:
        answer = verdict.score.value
    return example.prompt, label or 0.0, answer


class _Pair(NamedTuple):
    """Answers of a joint judge and of the single one to the same examples."""

    half: str
    labels: np.ndarray
    joint: np.ndarray
    single: np.ndarray


def _contrast(cell: str, results: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    task, form = CELLS[cell]
    pairs: dict[tuple[str, int], _Pair] = {}
    clusters: dict[str, list[np.ndarray]] = {}
    for world, seed in product(WORLDS, seeds):
        part = next(part for part in _joint_parts(world, seed) if part.task is task)
        prompts, labels, joint = zip(*results[f"{world}-{seed}"]["cells"][cell], strict=True)
        _, _, single = zip(*results[f"{task}-{part.seed}"]["cells"][cell], strict=True)
        values = (np.array(column, float) for column in (labels, joint, single))
        pairs[world, seed] = _Pair(part.half, *values)
        clusters[part.half] = _members(prompts)
    statistic = _accuracy if form == "compare" else _correlation

    def statistics(sampled: Sequence[int], rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Joint, single and gain of each world, then the difference of the gains; shape (7,)."""
        values: list[float] = []
        for world in WORLDS:
            chosen = [pairs[world, seed] for seed in sampled]
            for name in ("joint", "single"):
                by_seed = [
                    statistic(getattr(pair, name)[rows[pair.half]], pair.labels[rows[pair.half]])
                    for pair in chosen
                ]
                values.append(float(np.mean(by_seed)))
            values.append(values[-2] - values[-1])
        return np.array([*values, values[2] - values[5]])

    rng = np.random.default_rng(0)
    everything = {half: np.concatenate(groups) for half, groups in clusters.items()}
    resampled = [
        statistics(rng.choice(seeds, len(seeds)).tolist(), _resample(clusters, rng))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    n = sum(map(len, everything.values()))
    rows = [
        {"value": float(v), "ci95": [float(a), float(b)], "n": n}
        for v, a, b in zip(statistics(seeds, everything), low, high, strict=True)
    ]
    names = ("joint", "single", "gain")
    by_world = {
        w: dict(zip(names, rows[3 * k : 3 * k + 3], strict=True)) for k, w in enumerate(WORLDS)
    }
    return {**by_world, "sharing": rows[6]}


def _members(prompts: Sequence[str]) -> list[np.ndarray]:
    """Indices of the items of each prompt."""
    members: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(i)
    return [np.array(indices) for indices in members.values()]


def _resample(
    clusters: Mapping[str, Sequence[np.ndarray]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    return {
        half: np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))])
        for half, groups in clusters.items()
    }


def _accuracy(answers: np.ndarray, labels: np.ndarray) -> float:
    """Share of right comparisons; ties of the label are left out, a missing answer is wrong."""
    is_pair = labels != 0.5
    is_right = (answers > 0.5) == (labels > 0.5)
    return float((is_right & is_pair & ~np.isnan(answers)).sum() / is_pair.sum())


def _correlation(answers: np.ndarray, labels: np.ndarray) -> float:
    known = ~np.isnan(answers)
    return float(stats.spearmanr(answers[known], labels[known]).statistic)


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    steps, batch, tokens = report["steps"], report["batch_size"], report["tokens"]
    lines = [
        "## Joint against single training",
        "",
        f"Scalar judges of `tiny_base`, {steps} steps of {batch}, seeds "
        f"{', '.join(map(str, report['seeds']))}; {report['items_a_cell']:,} training items per "
        "cell, which a single judge sees four times in the steps in which a joint one sees the "
        f"other tasks. {report['n']:,} test items per cell and half of the world (seed "
        f"{report['test_seed']}). Means over seeds; in brackets 95 % intervals, bootstrap over "
        "prompts and seeds. *Shared*: all tasks have the same colours and shapes. *Apart*: videos "
        "have none in common with images. `sharing` is the first gain minus the "
        f"second. {report['core_minutes']:.0f} core-minutes.",
        "",
        "Tokens per training (seed 0, with padding, estimated from the first block of each cell): "
        + ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in tokens.items())
        + ".",
    ]
    for form, figure in _FIGURES.items():
        columns = [f"{figure}: single", "joint", "gain", "joint, apart", "gain, apart", "sharing"]
        rows = []
        for cell in (name for name in CELLS if name.endswith(form)):
            shared, apart, sharing = (report["cells"][cell][key] for key in (*WORLDS, "sharing"))
            figures = [shared["single"], shared["joint"], shared["gain"]]
            figures += [apart["joint"], apart["gain"], sharing]
            rows.append([cell, *map(with_interval, figures)])
        lines += ["", *table(["cell", *columns], rows)]
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the gains with their intervals: comparisons left and scores right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (form, what) in zip(panels, _FIGURES.items(), strict=True):
        cells = [cell for cell in CELLS if cell.endswith(form)]
        for world, shift in zip(WORLDS, (-0.12, 0.12), strict=True):
            gains = [report["cells"][cell][world]["gain"] for cell in cells]
            at = [gain["value"] for gain in gains]
            ends = np.array([gain["ci95"] for gain in gains]).T
            places = np.arange(len(cells)) + shift
            panel.errorbar(at, places, xerr=abs(ends - at), fmt="o", markersize=4, label=world)
        panel.axvline(0, color="0.7", linewidth=1)
        panel.set_yticks(range(len(cells)), [cell.partition(".")[0] for cell in cells])
        panel.set_xlabel(f"{what}, joint minus single")
    panels[0].invert_yaxis()
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return png(figure, dpi=110)


EXPERIMENT = Experiment(JointLearningStudy, run, page, plot)
