"""Joint against single training: whether learning four tasks together helps each of them.

The central claim of arXiv:2503.05236 (Table IX, steps matched), where the truth is known. A joint
judge and a single one take the same number of steps and know the same items of the task; the single
one reads them four times in the steps in which the joint one reads the other tasks. The control is
a world whose images and videos have no colour and no shape in common.
"""

from __future__ import annotations

import io
import json
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
from unified_reward.core.verdicts import Preferred, Scored, Verdict
from unified_reward.judges.card import Card
from unified_reward.judges.registry import open_judge
from unified_reward.train.judge import JudgeLabels, JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward.train.scalar import ScalarCollator
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import HALF_WORLDS, Split, make_example
from unified_reward_lab.microworld.items import TASKS, VIDEO_TASKS


WORLDS = ("shared", "apart")
_FIGURES = {"compare": "pair accuracy", "score": "Spearman"}
_FORMS: tuple[Form, ...] = ("score", "compare")
_LABELS = {"first": 1.0, "tie": 0.5, "second": 0.0}
_CARD = Card("compact", frames=4)
_CHUNK = 128
_RESAMPLES = 1000


@dataclass(frozen=True)
class JointLearning:
    """What is trained, and on how many items it is measured."""

    runs: Path
    """Folder of the judges and of what they said; what stands there is not done again."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            steps=320, batch_size=32, accumulate=1, lr=5e-4, muon_lr=1e-3
        )
    )
    """Of every judge; the steps a multiple of eight."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """In pairs 2k, 2k + 1: the even one learns one half of the world, the odd one the other."""
    n: int = 1500
    """Test items a cell and half."""
    test_seed: int = 20261125
    split: Split = "test"
    """Captions to measure on; ``train`` to choose settings without a look at the test captions."""

    def __post_init__(self) -> None:
        if self.optim.steps % (2 * len(TASKS)):
            raise ConfigError(f"steps must be a multiple of {2 * len(TASKS)}: blocks of every cell")
        if any(seed ^ 1 not in self.seeds for seed in self.seeds):
            raise ConfigError(f"seeds come in pairs 2k and 2k + 1, not {self.seeds}")

    @property
    def total(self) -> int:
        """Judges."""
        return len(_runs(self.seeds))


class _Part(NamedTuple):
    """The items of one task that a judge learns."""

    task: Task
    half: str
    seed: int


class _Run(NamedTuple):
    """One judge."""

    name: str
    seed: int
    parts: tuple[_Part, ...]


def _part(task: Task, seed: int) -> _Part:
    return _Part(task, "ab"[seed % 2], seed)


def _runs(seeds: Sequence[int]) -> list[_Run]:
    """A single judge of every task, a joint one, and a joint one of videos from the other half."""
    found: list[_Run] = []
    for seed in seeds:
        found += [_Run(f"{task}-{seed}", seed, (_part(task, seed),)) for task in TASKS]
        found += [_Run(f"{w}-{seed}", seed, _joint_parts(w, seed)) for w in WORLDS]
    return found


def _joint_parts(world: str, seed: int) -> tuple[_Part, ...]:
    apart = world == "apart"
    return tuple(_part(task, seed ^ (apart and task in VIDEO_TASKS)) for task in TASKS)


class _Lessons:
    """Training records of some parts, in blocks of one cell, taken by turns and read again."""

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


def joint_learning(
    config: JointLearning, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train the judges that are not there yet, measure them and contrast joint with single.

    Several processes may share the work, each with its own pairs of seeds; one with all of them
    then finds everything done.

    Returns:
        By world and cell: ``joint``, ``single`` and ``gain``, their difference, of pair accuracy
        (comparisons; ties of the label left out) or of Spearman's correlation (scores): means over
        seeds, intervals by a bootstrap over prompts and seeds, with the same draws for both.
        ``sharing`` is the gain in the shared world minus that in the other.
    """
    heard: dict[str, Any] = {}
    for run in _runs(config.seeds):
        file = config.runs / f"{run.name}.json"
        if not file.exists():
            told = json.dumps(_trained_and_heard(run, config))
            part = file.with_suffix(".part")
            part.write_text(told, "utf-8")
            part.replace(file)
        heard[run.name] = json.loads(file.read_text("utf-8"))
        progress(1)
    tokens = {name: one["tokens"] for name, one in heard.items()}
    return {
        "name": "joint_learning",
        "seeds": list(config.seeds),
        "steps": config.optim.steps,
        "batch_size": config.optim.batch_size * config.optim.accumulate,
        "items_a_cell": _Lessons((), config.optim).items_a_cell,
        "n": config.n,
        "test_seed": config.test_seed,
        "split": config.split,
        "core_minutes": sum(one["seconds"] for one in heard.values()) / 60,
        "tokens": {name: tokens[f"{name}-{config.seeds[0]}"] for name in (*TASKS, *WORLDS)},
        "n_unparsed": 0,
        "n_failed": sum(one["n_failed"] for one in heard.values()),
        "cells": {cell: _contrast(cell, heard, config.seeds) for cell in CELLS},
    }


def _trained_and_heard(run: _Run, config: JointLearning) -> dict[str, Any]:
    """Train a judge, and keep what it says of the test items of every cell that it learned."""
    folder, began = config.runs / run.name, time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    lessons = _Lessons(run.parts, config.optim)
    optim = replace(config.optim, seed=run.seed)
    training = JudgeTraining(
        optim, "tiny_base", head="scalar", family=_CARD.family, frames=_CARD.frames
    )
    train_judge(training, folder, lessons)
    judge = open_judge(folder)
    cells: dict[str, Any] = {}
    n_failed = 0
    for part in run.parts:
        for form in _FORMS:
            rows: list[tuple[str, float, float | None]] = []
            for start in range(0, config.n, _CHUNK):
                places = range(start, min(start + _CHUNK, config.n))
                records = [_test_item(part, form, config, i) for i in places]
                verdicts = judge.ask([one.sample for one in records])
                rows += (_row(*one) for one in zip(records, verdicts, strict=True))
            cells[f"{part.task}.{form}"] = rows
            n_failed += sum(said is None for _, _, said in rows)
    seconds = time.process_time() - began
    tokens = _tokens(lessons, config.optim)
    return {"cells": cells, "seconds": seconds, "tokens": tokens, "n_failed": n_failed}


def _tokens(lessons: _Lessons, optim: OptimConfig) -> int:
    """Tokens of all batches, padding included, as many a block as in the first one of its cell."""
    chat = load_vlm(checkpoint_path("tiny_base"), dtype="float32").chat
    collate = ScalarCollator(chat, JudgeLabels(lessons, _CARD, ()))
    block, n_cells = lessons.block, 2 * len(lessons.parts)
    first = sum(
        collate([{"row": cell * block + i} for i in range(block)])["input_ids"].numel()
        for cell in range(n_cells)
    )
    return first * optim.steps // n_cells


def _test_item(part: _Part, form: Form, config: JointLearning, index: int) -> Example:
    return make_example(
        part.task,
        form,
        split=config.split,
        seed=config.test_seed,
        index=index,
        world=HALF_WORLDS[part.half],
    )


def _row(record: Example, verdict: Verdict) -> tuple[str, float, float | None]:
    """Prompt, label and what the judge said: shares of the first, or scores."""
    target, said = record.target, None
    label = target.score if target.winner is None else _LABELS[target.winner]
    if isinstance(verdict, Preferred):
        said = verdict.probability
    elif isinstance(verdict, Scored) and verdict.score:
        said = verdict.score.value
    return record.sample.prompt, label or 0.0, said


class _Pair(NamedTuple):
    """A joint judge and the single one, on the same items."""

    half: str
    labels: np.ndarray
    joint: np.ndarray
    single: np.ndarray


def _contrast(cell: str, heard: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    task, form = CELLS[cell]
    pairs: dict[tuple[str, int], _Pair] = {}
    clusters: dict[str, list[np.ndarray]] = {}
    for world, seed in product(WORLDS, seeds):
        part = next(one for one in _joint_parts(world, seed) if one.task is task)
        prompts, labels, joint = zip(*heard[f"{world}-{seed}"]["cells"][cell], strict=True)
        _, _, single = zip(*heard[f"{task}-{part.seed}"]["cells"][cell], strict=True)
        values = (np.array(one, float) for one in (labels, joint, single))
        pairs[world, seed] = _Pair(part.half, *values)
        clusters[part.half] = _members(prompts)
    statistic = _accuracy if form == "compare" else _correlation

    def figures(drawn: Sequence[int], rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Joint, single and gain of each world, then the difference of the gains; shape (7,)."""
        values: list[float] = []
        for world in WORLDS:
            met = [pairs[world, seed] for seed in drawn]
            for name in ("joint", "single"):
                each = (
                    statistic(getattr(one, name)[rows[one.half]], one.labels[rows[one.half]])
                    for one in met
                )
                values.append(float(np.mean(list(each))))
            values.append(values[-2] - values[-1])
        return np.array([*values, values[2] - values[5]])

    rng = np.random.default_rng(0)
    everything = {half: np.concatenate(groups) for half, groups in clusters.items()}
    resampled = [
        figures(rng.choice(seeds, len(seeds)).tolist(), _drawn(clusters, rng))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    at = figures(seeds, everything)
    n = sum(map(len, everything.values()))
    rows = [
        {"value": float(v), "ci95": [float(a), float(b)], "n": n}
        for v, a, b in zip(at, low, high, strict=True)
    ]
    names = ("joint", "single", "gain")
    by_world = {
        w: dict(zip(names, rows[3 * k : 3 * k + 3], strict=True)) for k, w in enumerate(WORLDS)
    }
    return {**by_world, "sharing": rows[6]}


def _members(prompts: Sequence[str]) -> list[np.ndarray]:
    found: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        found.setdefault(prompt, []).append(i)
    return [np.array(one) for one in found.values()]


def _drawn(
    clusters: Mapping[str, Sequence[np.ndarray]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    return {
        half: np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))])
        for half, groups in clusters.items()
    }


def _accuracy(said: np.ndarray, labels: np.ndarray) -> float:
    """Share of comparisons decided rightly; ties of the label are left out, no answer is wrong."""
    is_pair = labels != 0.5
    return float(((said > 0.5) == (labels > 0.5))[is_pair & ~np.isnan(said)].sum() / is_pair.sum())


def _correlation(said: np.ndarray, labels: np.ndarray) -> float:
    known = ~np.isnan(said)
    return float(stats.spearmanr(said[known], labels[known]).statistic)


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    steps, batch, tokens = report["steps"], report["batch_size"], report["tokens"]
    lines = [
        "## Joint against single training",
        "",
        f"Scalar judges of `tiny_base`, {steps} steps of {batch}, seeds "
        f"{', '.join(map(str, report['seeds']))}; {report['items_a_cell']:,} training items a "
        "cell, which a single judge reads four times in the steps in which a joint one learns the "
        f"other tasks. {report['n']:,} test items a cell and half of the world (seed "
        f"{report['test_seed']}). Means over seeds; in brackets 95 % intervals, bootstrap over "
        "prompts and seeds. *Shared*: all tasks have one vocabulary of colours and shapes. "
        "*Apart*: clips have none in common with pictures. `sharing` is the first gain minus the "
        f"second. {report['core_minutes']:.0f} core-minutes.",
        "",
        "Tokens seen by a judge (seed 0, padding included, from a first block of every cell): "
        + ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in tokens.items())
        + ".",
    ]
    for form, figure in _FIGURES.items():
        columns = [f"{figure}: single", "joint", "gain", "joint, apart", "gain, apart", "sharing"]
        rows = []
        for cell in (one for one in CELLS if one.endswith(form)):
            shared, apart, sharing = (report["cells"][cell][one] for one in (*WORLDS, "sharing"))
            figures = [shared["single"], shared["joint"], shared["gain"]]
            figures += [apart["joint"], apart["gain"], sharing]
            rows.append([cell, *map(told, figures)])
        lines += ["", *table(["cell", *columns], rows)]
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any]) -> bytes:
    """The gains with their intervals as a PNG image: comparisons left and scores right."""
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
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
