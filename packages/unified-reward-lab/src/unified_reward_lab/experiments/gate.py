"""The gate: whether a judge can be trusted on captions it never saw, cell by cell.

Pairs count where the utilities differ by a tenth at least; scores by their rank correlation with
the utility. Calibration is told before and after the temperatures of the judge's card.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unified_reward.bench.benchmark import JudgedItem
from unified_reward.bench.calibration import (
    Predictions,
    calibration_error,
    collect_predictions,
    reliability,
)
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Unparsed, Verdict
from unified_reward.judges.card import Calibration, CardedJudge
from unified_reward.judges.registry import open_judge
from unified_reward_lab.bench.microworld import compare_cell, score_cell
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import make_example


THRESHOLDS = {
    "image.compare": 0.80,
    "image.score": 0.75,
    "video.compare": 0.72,
    "video.score": 0.65,
}
"""What each cell must reach, by medium and form."""
_CELLS = CELLS | EDITING
_FIGURES = {"compare": "pair_accuracy_clear", "score": "spearman"}
_CHUNK = 128


@dataclass(frozen=True)
class Gate:
    """Which judges pass."""

    judges: Mapping[str, str] = field(default_factory=lambda: {"shipped": "tiny_judge"})
    """Folder of a judge by the name to show; a folder or a registered name."""
    n: int = 1500
    """Held-out items a cell."""
    seed: int = 0

    @property
    def total(self) -> int:
        """Items judged in all."""
        return len(self.judges) * self.n * len(_CELLS)


def gate(config: Gate, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Measure every judge on every cell, comparisons in both orders.

    Args:
        config: Which judges, and on how many items.
        progress: Called with the number of items just judged.

    Returns:
        By judge and cell the figure with its threshold, and the calibration error before and after;
        by judge and form the bins of a reliability plot before and after.
    """
    judges = {
        name: _gated(open_judge(reference), config, progress)
        for name, reference in config.judges.items()
    }
    return {
        "name": "gate",
        "n": config.n,
        "seed": config.seed,
        "n_unparsed": sum(one["n_unparsed"] for one in judges.values()),
        "n_failed": sum(one["n_failed"] for one in judges.values()),
        "judges": judges,
    }


def _gated(judge: CardedJudge, config: Gate, progress: Callable[[int], None]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    missing: list[Verdict] = []
    pooled: dict[str, dict[str, list[Predictions]]] = {
        form: {"before": [], "after": []} for form in _FIGURES
    }
    fitted = judge.card.calibration or Calibration()
    for cell, (task, form) in _CELLS.items():
        records: list[Example] = []
        read: dict[str, list[Verdict]] = {"before": [], "after": []}
        for start in range(0, config.n, _CHUNK):
            chunk = [
                make_example(task, form, split="test", seed=config.seed, index=i)
                for i in range(start, min(start + _CHUNK, config.n))
            ]
            samples = [one.sample for one in chunk]
            heard = judge.query(samples)
            records += chunk
            read["before"] += judge.decode(samples, heard, Calibration())
            read["after"] += judge.decode(samples, heard, fitted)
            progress(len(chunk))
        missing += [one for one in read["after"] if isinstance(one, Unparsed | Failed)]
        items = [
            JudgedItem(record, cell, verdict)
            for record, verdict in zip(records, read["after"], strict=True)
        ]
        figures = (compare_cell if form == "compare" else score_cell)(items)
        given = {when: collect_predictions(records, verdicts) for when, verdicts in read.items()}
        for when, one in given.items():
            pooled[form][when].append(one)
        cells[cell] = {
            _FIGURES[form]: figures[_FIGURES[form]].row(),
            "threshold": THRESHOLDS[f"{task.partition('_')[0]}.{form}"],
            "unreadable": figures["unreadable"].row(),
            "calibration_error": {
                when: calibration_error(one).row() for when, one in given.items()
            },
        }
    return {
        "family": judge.family,
        "kind": "scalar" if judge.card.head else "generative",
        "training": dict(judge.card.training),
        "calibration": asdict(fitted),
        "n_unparsed": sum(isinstance(one, Unparsed) for one in missing),
        "n_failed": sum(isinstance(one, Failed) for one in missing),
        "cells": cells,
        "reliability": {
            form: {when: _bins(every) for when, every in both.items()}
            for form, both in pooled.items()
        },
    }


def _bins(every: list[Predictions]) -> list[dict[str, float]]:
    predicted = np.concatenate([one.predicted for one in every])
    observed = np.concatenate([one.observed for one in every])
    return [one._asdict() for one in reliability(predicted, observed)]


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    head = ("judge", "cell", "figure", "must reach", "value", "n", "unreadable")
    rows: list[list[Any]] = []
    for name, judge in report["judges"].items():
        for cell, row in judge["cells"].items():
            figure = _FIGURES[cell.rpartition(".")[2]]
            value, error = row[figure], row["calibration_error"]
            mark = "**" if value["value"] >= row["threshold"] else ""
            shown = [f"{row['threshold']:.2f}", f"{mark}{told(value)}{mark}", value["n"]]
            shown += [f"{row['unreadable']['value']:.3f}", *map(told, error.values())]
            rows.append([f"{name} ({judge['kind']})", f"`{cell}`", figure, *shown])
    temperatures = (
        f"- {name}: comparisons {fitted['compare']}, scores {fitted['score']}"
        for name, fitted in ((name, one["calibration"]) for name, one in report["judges"].items())
    )
    lines = [
        "## The gate",
        "",
        f"{report['n']} held-out items a cell (seed {report['seed']}), comparisons asked in both "
        "orders. A comparison counts where the utilities differ by 0.1 or more (pair accuracy, a "
        "tie said is worth half); a score by Spearman's correlation with the utility. ECE is the "
        "expected calibration error in ten bins before and after the temperatures that were fitted "
        "on new items of training captions. In brackets 95 % intervals: bootstrap over prompts, or "
        "Wilson's where no prompt repeats. One training seed a judge.",
        "",
        *table([*head, "ECE before", "ECE after"], rows),
        "",
        "A figure in bold reaches what it must. Temperatures:",
        "",
        *temperatures,
    ]
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any]) -> bytes:
    """Reliability as a PNG image: a row a judge, comparisons left and scores right."""
    from matplotlib.figure import Figure

    judges = report["judges"]
    figure = Figure(figsize=(7, 0.4 + 3.2 * len(judges)), layout="constrained")
    rows = figure.subplots(len(judges), 2, squeeze=False, sharex=True, sharey=True)
    for axes, (name, judge) in zip(rows, judges.items(), strict=True):
        for panel, (form, both) in zip(axes, judge["reliability"].items(), strict=True):
            panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            for (when, bins), style in zip(both.items(), ("o--", "o-"), strict=True):
                predicted, observed, n = zip(*(one.values() for one in bins), strict=True)
                panel.plot(predicted, observed, style, markersize=3, label=f"{when}, n = {sum(n)}")
            panel.set_title(f"{name}: {form}", fontsize=9)
            panel.legend(fontsize=7)
        axes[0].set_ylabel("what turned out")
    for panel in rows[-1]:
        panel.set_xlabel("predicted")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
