"""Trust: microworld benchmark and audit of the judges of the laboratory, on the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unified_reward.bench.audit import audit
from unified_reward.bench.benchmark import JudgedItem
from unified_reward.bench.metrics import pair_points, paired_difference
from unified_reward.bench.run import run_benchmark
from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Winner
from unified_reward.judges.registry import open_reference
from unified_reward_lab.bench.microworld import test_records
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import table, with_interval


_COMPARED = (
    "pair_accuracy",
    "three_way_accuracy",
    "consistency",
    "calibration_error",
    "brier_score",
)
_SCORED = ("spearman", "kendall_tau_b", "calibration_error")


@dataclass(frozen=True)
class TrustStudy:
    """Judges, and the number of items."""

    judges: Mapping[str, str] = field(
        default_factory=lambda: {"generative": "tiny_judge", "scalar": "tiny_scalar"}
    )
    """References by the name to show; the second is compared with the first on each item."""
    n: int = 200
    """Test items per cell of the benchmark."""
    audited: int = 40
    """Number of the first of these items, per cell, that are audited."""
    seed: int = 20261127

    def __post_init__(self) -> None:
        if not 0 < self.audited <= self.n:
            raise ConfigError(f"audited must be from 1 to n={self.n}, given {self.audited}")

    @property
    def total(self) -> int:
        """Number of items of the benchmark, over all judges."""
        return len(self.judges) * 8 * self.n


def run(config: TrustStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Benchmark and audit every judge on the same items.

    Returns:
        By judge its ``bench`` and ``audit`` JSON; and ``ahead``, the paired difference in pair
        accuracy of the second judge minus the first.
    """
    examples, audited = (
        [example for cell in test_records(n, config.seed).values() for example in cell]
        for n in (config.n, config.audited)
    )
    judges: dict[str, Any] = {}
    judged: list[list[JudgedItem]] = []
    for name, reference in config.judges.items():
        judge = open_reference(reference, truth=examples)
        result = run_benchmark(
            "microworld", judge, limit=config.n, seed=config.seed, on_progress=progress
        )
        judges[name] = {"bench": result.report, "audit": audit(judge, audited).report}
        judged.append(result.items)
    reports = [report for each in judges.values() for report in each.values()]
    return {
        "name": "trust",
        "n": config.n,
        "audited": config.audited,
        "seed": config.seed,
        "n_unparsed": sum(report["n_unparsed"] for report in reports),
        "n_failed": sum(report["n_failed"] for report in reports),
        "judges": judges,
        "ahead": _difference(*judged[:2]) if len(judged) > 1 else None,
    }


def _difference(first: Sequence[JudgedItem], second: Sequence[JudgedItem]) -> dict[str, Any]:
    """Paired difference in pair accuracy, the second judge minus the first."""
    pairs = [pair for pair in zip(first, second, strict=True) if pair[0].target.winner]
    clusters = [item.cluster for item, _ in pairs]
    labels: list[Winner] = [item.target.winner or "tie" for item, _ in pairs]
    points = [
        pair_points([item.verdict for item in side], labels, clusters=clusters)
        for side in zip(*pairs, strict=True)
    ]
    counted = [(a, b, c) for a, b, c in zip(*points, clusters, strict=True) if a is not None]
    a, b, clusters = zip(*counted, strict=True)
    return asdict(paired_difference(a, b, clusters=clusters))


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    judges = report["judges"]
    names = [*judges]
    lines = [
        "## Benchmark and audit of the judges",
        "",
        f"`unified-reward experiment trust`: {report['n']} held-out items per cell of the "
        f"microworld "
        f"(seed {report['seed']}), comparisons in both orders. In brackets 95 % intervals by "
        "bootstrap over prompts. One training of each judge.",
        "",
        *table(["cell", "metric", *names], _cells(judges)),
        "",
        f"Audit of {report['audited']} of these items per cell, all tasks together; the JSON has "
        "it by task.",
        "",
        *table(["metric", *names, "n"], _audited(judges)),
    ]
    if report["ahead"]:
        ahead = report["ahead"]
        lines += [
            "",
            f"Paired difference in pair accuracy on {ahead['n']} comparisons without ties: "
            f"{names[1]} minus {names[0]} {with_interval(ahead)}, {ahead['won']} won and "
            f"{ahead['lost']} lost, McNemar p = {ahead['p_value']:.2g}.",
        ]
    return "\n".join(lines) + "\n"


def _cells(judges: Mapping[str, Any]) -> list[list[str]]:
    benches = [judge["bench"]["groups"] for judge in judges.values()]
    rows: list[list[str]] = []
    for cell in benches[0]:
        for metric in _SCORED if cell.endswith(".score") else _COMPARED:
            values = (with_interval(bench[cell][metric]) for bench in benches)
            rows.append([f"`{cell}`", metric, *values])
    return rows


def _audited(judges: Mapping[str, Any]) -> list[list[Any]]:
    audits = [judge["audit"]["metrics"] for judge in judges.values()]
    empty = {"value": None, "n": 0}
    rows: list[list[Any]] = []
    for name in dict.fromkeys(name for metrics in audits for name in metrics):
        values = [metrics.get(name, empty) for metrics in audits]
        rows.append([name, *map(_format, values), max(value["n"] for value in values)])
    return rows


def _format(metric: Mapping[str, Any]) -> str:
    if metric["value"] is not None and metric["ci95"][0] is None:
        return f"{metric['value']:.3f}"
    return with_interval(metric)


EXPERIMENT = Experiment(TrustStudy, run, page)
