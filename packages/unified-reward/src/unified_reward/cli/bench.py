"""``unified-reward bench`` and ``unified-reward bench-diff``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from unified_reward.bench.benchmark import BenchmarkOptions
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.page import write_page
from unified_reward.bench.registry import find_benchmark
from unified_reward.bench.run import data_folder, run_benchmark
from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.samples import Example
from unified_reward.judges.registry import open_judge


def bench(
    on: Annotated[str, typer.Option("--on", metavar="NAME", help="Name of the benchmark.")],
    *,
    data: Annotated[
        str, typer.Option("--data", help="Folder of its official files, or a hub id to fetch.")
    ] = "",
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Items at most; of the microworld a cell, default 200."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Names items drawn and pairs exchanged.")] = 0,
    orders: options.OrdersOption = 2,
    votes: Annotated[
        int, typer.Option(min=0, help="Majority of so many votes, each in an order by lot.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for verdicts, report and page; resumable.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure a judge: figures with sample sizes and 95 % intervals."""
    benchmark, folder = find_benchmark(on), data_folder(data)
    config = BenchmarkOptions(limit, seed, options.both(orders), votes)
    rows = benchmark.read_rows(folder, config)
    truth = (row.content for row in rows if isinstance(row.content, Example))
    opened = open_judge(judge, model=model, family=family, truth=truth, look=False)
    with bar(on, None) as advance:
        result = run_benchmark(
            benchmark, opened, folder, **asdict(config), out=out, on_progress=advance
        )
    if out:
        write_page(benchmark, result, out / "page.html")
    if as_json:
        output.print_json([result.report])
    else:
        Console().print(table(result.report))
    if any(result.report.get(name) for name in ("n_unparsed", "n_failed", "n_broken_rows")):
        raise typer.Exit(1)


def bench_diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a benchmark's run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Of another run of it.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Compare two judges on the items that both were asked: B minus A, tested in pairs."""
    report = compare_runs(first, second)
    if as_json:
        output.print_json([report])
        return
    table = Table("", "metric", "A", "B", "B - A", "95 %", "p", "n", title=report["title"])
    for group, rows in [("all", report["metrics"]), *report["groups"].items()]:
        for name, row in rows.items():
            values = [_shown(row[key]) for key in ("a", "b", "difference")]
            low, high = map(_shown, row["ci95"])
            p_value = "" if row["p_value"] is None else f"{row['p_value']:.2g}"
            table.add_row(group, name, *values, f"{low} to {high}", p_value, str(row["n"]))
            group = ""  # noqa: PLW2901  named once
    Console().print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(report: dict[str, Any]) -> Table:
    """Every figure of a report for the terminal."""
    shown = Table("", "metric", "value", "95 %", "n", title=f"{report['name']}: {report['judge']}")
    for group, metrics in [("all", report["metrics"]), *report["groups"].items()]:
        for name, metric in metrics.items():
            low, high = map(_shown, metric["ci95"])
            interval = "-" if low == high == "-" else f"{low} to {high}"
            shown.add_row(group, name, _shown(metric["value"]), interval, str(metric["n"]))
            group = ""  # noqa: PLW2901  named once
    return shown
