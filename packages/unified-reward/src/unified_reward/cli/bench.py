"""``unified-reward bench`` and ``unified-reward bench-diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unified_reward.bench.benchmark import BenchmarkOptions
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.registry import benchmark_names, find_benchmark
from unified_reward.bench.run import data_folder, run_benchmark
from unified_reward.cli import completions, options, output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.words import count_of


_NameOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"One of {', '.join(benchmark_names())}.",
        autocompletion=completions.benchmarks,
    ),
]


@options.opens_judge
def bench(
    on: _NameOption,
    *,
    data: Annotated[
        str, typer.Option(help="Folder of its official files, or a hub id to download.")
    ] = "",
    judge: options.JudgeArguments,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of items; of microworld per cell, default 200."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the items and of their order.")] = 0,
    orders: options.OrdersOption = 2,
    votes: Annotated[
        int,
        typer.Option(min=0, help="Votes per item, candidates shuffled for each; majority wins."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for verdicts, report and page; resumable.")
    ] = None,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Run a benchmark on a judge: metrics with sample sizes and 95 % intervals."""
    if retry_failed and not out:
        raise ConfigError("--retry-failed goes with --out, the folder of the run to go on with")
    benchmark, folder = find_benchmark(on), data_folder(data)
    config = BenchmarkOptions(limit, seed, options.orders_of(orders), votes)
    rows = benchmark.read_rows(folder, config)
    truth = (row.content for row in rows if isinstance(row.content, Example))
    opened = judge.open(truth=truth, opens_media=False)
    with bar(on, None) as advance:
        result = run_benchmark(
            benchmark,
            opened,
            folder,
            limit=limit,
            seed=seed,
            orders=config.orders,
            votes=votes,
            out=out,
            retry_failed=retry_failed,
            on_progress=advance,
        )
    if as_json:
        output.print_json([result.report])
    else:
        Console().print(output.report_table(result.report))
        if out:
            output.say_next("bench-diff", out, "OTHER_RUN")
    if broken := result.broken:
        n = count_of(len(broken), "row is", "rows are")
        typer.echo(f"{n} no item of {on}, such as {broken[0]}", err=True)
    if out:
        output.hint_at_failed(result.report["n_failed"])
    output.exit_if(result.report.get(name) for name in ("n_unparsed", "n_failed", "n_broken_rows"))


def bench_diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a benchmark run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another run of it.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Compare two runs of a benchmark on their common items: B minus A, paired tests."""
    report = compare_runs(first, second)
    if as_json:
        output.print_json([report])
        return
    table = Table("", "metric", "A", "B", "B - A", "95 %", "p", "n", title=report["title"])
    for group, rows in [("all", report["metrics"]), *report["groups"].items()]:
        for i, (name, row) in enumerate(rows.items()):
            values = [output.format_number(row[key]) for key in ("a", "b", "difference")]
            low, high = map(output.format_number, row["ci95"])
            p_value = "" if row["p_value"] is None else f"{row['p_value']:.2g}"
            title = "" if i else group
            table.add_row(title, name, *values, f"{low} to {high}", p_value, str(row["n"]))
    Console().print(table)
