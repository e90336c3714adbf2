"""How far the judges of the package are to be trusted: the microworld benchmark and an audit."""

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
from unified_reward_lab.experiments.page import table, told


_COMPARED = (
    "pair_accuracy",
    "three_way_accuracy",
    "consistency",
    "calibration_error",
    "brier_score",
)
_SCORED = ("spearman", "kendall_tau_b", "calibration_error")


@dataclass(frozen=True)
class Trust:
    """Who is asked what."""

    judges: Mapping[str, str] = field(
        default_factory=lambda: {"generative": "tiny_judge", "scalar": "tiny_scalar"}
    )
    """References by the name to show; the second is held against the first in pairs."""
    n: int = 200
    """Test items a cell of the benchmark."""
    audited: int = 40
    """Of these, items a cell that are audited, the first."""
    seed: int = 20261127

    def __post_init__(self) -> None:
        if not 0 < self.audited <= self.n:
            raise ConfigError(f"audited is at least 1 and at most n, not {self.audited}")

    @property
    def total(self) -> int:
        """Items of the benchmark, by all judges."""
        return len(self.judges) * 8 * self.n


def trust(config: Trust, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Benchmark and audit every judge on the same items.

    Returns:
        By judge its ``bench`` and ``audit`` JSON, and ``ahead``: how far the second is ahead of
        the first in pair accuracy, tested in pairs.
    """
    records = [one for cell in test_records(config.n, config.seed).values() for one in cell]
    cells = test_records(config.audited, config.seed).values()
    judges: dict[str, Any] = {}
    judged: list[list[JudgedItem]] = []
    for name, reference in config.judges.items():
        judge = open_reference(reference, truth=records)
        found = run_benchmark(
            "microworld", judge, limit=config.n, seed=config.seed, on_progress=progress
        )
        audited = audit(judge, [one for cell in cells for one in cell]).report
        judges[name] = {"bench": found.report, "audit": audited}
        judged.append(found.items)
    reports = [one for each in judges.values() for one in each.values()]
    return {
        "name": "trust",
        "n": config.n,
        "audited": config.audited,
        "seed": config.seed,
        "n_unparsed": sum(one["n_unparsed"] for one in reports),
        "n_failed": sum(one["n_failed"] for one in reports),
        "judges": judges,
        "ahead": _ahead(*judged[:2]) if len(judged) > 1 else None,
    }


def _ahead(first: Sequence[JudgedItem], second: Sequence[JudgedItem]) -> dict[str, Any]:
    both = [pair for pair in zip(first, second, strict=True) if pair[0].target.winner]
    clusters = [one.cluster for one, _ in both]
    labels: list[Winner] = [one.target.winner or "tie" for one, _ in both]
    points = [
        pair_points([one.verdict for one in side], labels, clusters=clusters)
        for side in zip(*both, strict=True)
    ]
    counted = [(a, b, c) for a, b, c in zip(*points, clusters, strict=True) if a is not None]
    a, b, clusters = zip(*counted, strict=True)
    return asdict(paired_difference(a, b, clusters=clusters))


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    judges = report["judges"]
    names = [*judges]
    lines = [
        "## Benchmark and audit of the judges",
        "",
        f"`unified-reward experiment trust`: {report['n']} held-out items a cell of the microworld "
        f"(seed {report['seed']}), comparisons in both orders. In brackets 95 % intervals by "
        "bootstrap over prompts. One training of each judge.",
        "",
        *table(["cell", "figure", *names], _cells(judges)),
        "",
        f"Audit of {report['audited']} of these items a cell, all tasks together; by task it "
        "stands in the JSON.",
        "",
        *table(["figure", *names, "n"], _audited(judges)),
    ]
    if report["ahead"]:
        one = report["ahead"]
        lines += [
            "",
            f"In pairs, on {one['n']} comparisons that have a better side: {names[1]} minus "
            f"{names[0]} {one['value']:.3f} ({one['ci95'][0]:.3f} to {one['ci95'][1]:.3f}), "
            f"{one['won']} won and {one['lost']} lost, McNemar p = {one['p_value']:.2g}.",
        ]
    return "\n".join(lines) + "\n"


def _cells(judges: Mapping[str, Any]) -> list[list[str]]:
    benches = [one["bench"]["groups"] for one in judges.values()]
    rows: list[list[str]] = []
    for cell in benches[0]:
        form = cell.rpartition(".")[2]
        for figure in _SCORED if form == "score" else _COMPARED:
            rows.append([f"`{cell}`", figure, *(told(bench[cell][figure]) for bench in benches)])
    return rows


def _audited(judges: Mapping[str, Any]) -> list[list[Any]]:
    audits = [one["audit"]["metrics"] for one in judges.values()]
    figures = dict.fromkeys(name for one in audits for name in one)
    empty = {"value": None, "n": 0}
    rows: list[list[Any]] = []
    for name in figures:
        found = [one.get(name, empty) for one in audits]
        rows.append([name, *map(_shown, found), max(one["n"] for one in found)])
    return rows


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is not None and figure["ci95"][0] is None:
        return f"{figure['value']:.3f}"
    return told(figure)
