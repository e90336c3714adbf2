"""``unified-reward bench`` and ``unified-reward bench-diff``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unified_reward.bench.benchmark import BenchmarkOptions
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.page import write_page
from unified_reward.bench.protocols import PROTOCOLS
from unified_reward.bench.run import read_items
from unified_reward.bench.run import run as run_benchmark
from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, extra, load_extension, missing_hint


@options.opens_judge
def bench(
    on: Annotated[str, typer.Option(metavar="NAME", help="Name of the benchmark.")],
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
    as_json: options.JsonOption = False,
) -> None:
    """Run a benchmark on a judge: metrics with sample sizes and 95 % intervals."""
    names = [*PROTOCOLS, *extensions("benchmarks")]
    benchmark = PROTOCOLS.get(on) or load_extension("benchmarks", on)
    if benchmark is None:
        raise ConfigError(f"no benchmark {on!r}; there are {', '.join(names)}{missing_hint(on)}")
    config = BenchmarkOptions(limit, seed, options.orders_of(orders), votes)
    items = read_items(benchmark, _folder(data), config)
    opened = judge.open(truth=items.records, opens_media=False)
    with bar(on, len(items.records)) as advance:
        result = run_benchmark(benchmark, opened, items, config, out=out, progress=advance)
    if out:
        write_page(benchmark, result, out / "page.html")
    if as_json:
        output.print_json([result.report])
    else:
        Console().print(output.report_table(result.report))
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


def _folder(data: str) -> Path | None:
    """Folder of the files, downloaded from the hub if the text is a hub id."""
    if not data or Path(data).exists():
        return Path(data) if data else None
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", data):
        raise ConfigError(f"there is no folder {data}, and it is not a hub id (org/name)")
    with extra("local"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(data, repo_type="dataset"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(f"{data} is not a folder and cannot be downloaded: {error}") from error
