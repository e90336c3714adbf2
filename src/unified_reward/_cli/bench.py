"""``unified-reward bench``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from unified_reward._cli import options, output
from unified_reward._cli.progress import bar
from unified_reward.bench import microworld
from unified_reward.data.microworld import CELLS
from unified_reward.judge import open_judge


class Benchmark(StrEnum):
    """The benchmarks there are."""

    MICROWORLD = "microworld"


def bench(
    on: Annotated[Benchmark, typer.Option("--on", help="The benchmark.")],
    *,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    limit: Annotated[int, typer.Option(min=3, help="Items a cell.")] = 200,
    seed: Annotated[int, typer.Option(help="Names the series of items.")] = 0,
    orders: options.OrdersOption = 2,
    as_json: options.JsonOption = False,
) -> None:
    """Measure a judge: figures with sample sizes and 95 % intervals."""
    known = microworld.test_records(limit, seed) if judge == "scripted:perfect" else {}
    truth = [record for cell in known.values() for record in cell]
    opened = open_judge(judge, model=model, family=family, truth=truth)
    with bar(on.value, limit * len(CELLS)) as advance:
        report = microworld.evaluate(
            opened, n=limit, seed=seed, orders=options.both(orders), progress=advance
        )
    if as_json:
        output.print_json([report])
    else:
        Console().print(_table(report))
    if report["n_unparsed"] or report["n_failed"]:
        raise typer.Exit(1)


def _table(report: dict[str, Any]) -> Table:
    table = Table("", "metric", "value", "95 %", "n", title=f"{report['name']}: {report['judge']}")
    for group, metrics in [("all", report["metrics"]), *report["groups"].items()]:
        for name, metric in metrics.items():
            value, (low, high) = metric["value"], metric["ci95"]
            shown = ("-", "-") if value is None else (f"{value:.3f}", f"{low:.3f} to {high:.3f}")
            table.add_row(group, name, *shown, str(metric["n"]))
            group = ""  # noqa: PLW2901  named once
    return table
