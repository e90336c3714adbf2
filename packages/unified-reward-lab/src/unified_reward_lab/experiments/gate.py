"""Gate: thresholds of accuracy and correlation that a judge must reach on held-out captions.

Comparisons count if the utilities differ by at least 0.1; scores are measured by their rank
correlation with the utility. Calibration is measured before and after the temperatures of the card.
"""

from __future__ import annotations

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
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Unparsed, Verdict
from unified_reward.judges.card import Calibration, CardedJudge
from unified_reward.judges.registry import open_judge
from unified_reward_lab.bench.microworld import compare_cell, score_cell
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import png, table, with_interval
from unified_reward_lab.microworld import make_example


THRESHOLDS = {
    "image.compare": 0.80,
    "image.score": 0.75,
    "video.compare": 0.72,
    "video.score": 0.65,
}
"""Threshold of each cell, by medium and form."""
_CELLS = CELLS | EDITING
_FIGURES = {"compare": "pair_accuracy_clear", "score": "spearman"}
_CHUNK = 128


@dataclass(frozen=True)
class GateStudy:
    """Judges, and the number of examples."""

    judges: Mapping[str, str] = field(default_factory=lambda: {"shipped": "tiny_judge"})
    """Reference of a judge, see `open_judge`, by the name to show."""
    n: int = 1500
    """Held-out examples per cell."""
    seed: int = 0

    @property
    def total(self) -> int:
        """Number of all examples judged."""
        return len(self.judges) * self.n * len(_CELLS)


def run(config: GateStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Measure every judge on every cell, comparisons in both orders.

    Args:
        config: Judges and number of examples.
        progress: Called with the number of examples just judged.

    Returns:
        By judge and cell: the metric with its threshold, and the calibration error before and
        after. By judge and form: the bins of a reliability plot before and after.
    """
    judges = {
        name: _measure(_open(reference), config, progress)
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


def _open(reference: str) -> CardedJudge:
    judge = open_judge(reference)
    if not isinstance(judge, CardedJudge):
        raise ConfigError(f"{reference} has no temperatures; the gate is for trained judges")
    return judge


def _measure(judge: CardedJudge, config: GateStudy, progress: Callable[[int], None]) -> Any:
    cells: dict[str, Any] = {}
    missing: list[Verdict] = []
    pooled: dict[str, dict[str, list[Predictions]]] = {
        form: {"before": [], "after": []} for form in _FIGURES
    }
    fitted = judge.card.calibration or Calibration()
    for cell, (task, form) in _CELLS.items():
        examples: list[Example] = []
        verdicts: dict[str, list[Verdict]] = {"before": [], "after": []}
        for start in range(0, config.n, _CHUNK):
            chunk = [
                make_example(task, form, split="test", seed=config.seed, index=i)
                for i in range(start, min(start + _CHUNK, config.n))
            ]
            samples = [example.sample for example in chunk]
            replies = judge.query(samples)
            examples += chunk
            verdicts["before"] += judge.decode(samples, replies, Calibration())
            verdicts["after"] += judge.decode(samples, replies, fitted)
            progress(len(chunk))
        missing += [each for each in verdicts["after"] if isinstance(each, Unparsed | Failed)]
        judged = [
            JudgedItem(example, cell, verdict)
            for example, verdict in zip(examples, verdicts["after"], strict=True)
        ]
        metrics = (compare_cell if form == "compare" else score_cell)(judged)
        predictions = {w: collect_predictions(examples, each) for w, each in verdicts.items()}
        for when, each in predictions.items():
            pooled[form][when].append(each)
        cells[cell] = {
            _FIGURES[form]: metrics[_FIGURES[form]].row(),
            "threshold": THRESHOLDS[f"{task.partition('_')[0]}.{form}"],
            "unreadable": metrics["unreadable"].row(),
            "calibration_error": {
                when: calibration_error(each).row() for when, each in predictions.items()
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
    """Format the report as a Markdown section."""
    head = ("judge", "cell", "metric", "threshold", "value", "n", "unreadable")
    rows: list[list[Any]] = []
    for name, judge in report["judges"].items():
        for cell, row in judge["cells"].items():
            figure = _FIGURES[cell.rpartition(".")[2]]
            value, error = row[figure], row["calibration_error"]
            mark = "**" if value["value"] >= row["threshold"] else ""
            values = [f"{row['threshold']:.2f}", f"{mark}{with_interval(value)}{mark}", value["n"]]
            values += [f"{row['unreadable']['value']:.3f}", *map(with_interval, error.values())]
            rows.append([f"{name} ({judge['kind']})", f"`{cell}`", figure, *values])
    temperatures = (
        f"- {name}: comparisons {fitted['compare']}, scores {fitted['score']}"
        for name, fitted in ((name, one["calibration"]) for name, one in report["judges"].items())
    )
    lines = [
        "## The gate",
        "",
        f"{report['n']} held-out items per cell (seed {report['seed']}), comparisons in both "
        "orders. Comparisons with utilities 0.1 or more apart: pair accuracy, ties count half; "
        "scores: Spearman's correlation with the utility. ECE is the expected "
        "calibration error in ten bins, before and after the temperatures that were fitted on new "
        "items of training captions. In brackets 95 % intervals: bootstrap over prompts, or "
        "Wilson's where no prompt repeats. One training seed per judge.",
        "",
        *table([*head, "ECE before", "ECE after"], rows),
        "",
        "Values in bold reach the threshold. Temperatures:",
        "",
        *temperatures,
    ]
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the reliability: one row per judge, comparisons left and scores right."""
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
        axes[0].set_ylabel("observed")
    for panel in rows[-1]:
        panel.set_xlabel("predicted")
    return png(figure, dpi=110)


EXPERIMENT = Experiment(GateStudy, run, page, plot)
