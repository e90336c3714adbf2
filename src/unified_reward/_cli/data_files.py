"""``unified-reward data check|convert|mix|stats``: files of rows."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from unified_reward._cli import options
from unified_reward._cli.output import print_json
from unified_reward._config import load_config
from unified_reward.data import check as checking
from unified_reward.data import mix as mixing
from unified_reward.data import pack
from unified_reward.data import stats as counting
from unified_reward.records import Row
from unified_reward.types import Failed


PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A file of rows.")]
SourceOption = Annotated[
    str, typer.Option("--source", help="records for our own files, or a published source's name.")
]
MediaOption = Annotated[
    Path | None,
    typer.Option("--media", help="Where a published source's media lie; default beside the file."),
]


def check(
    path: PathArgument,
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every picture and every frame; slow.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List every row that cannot be used, and why."""
    reasons: Counter[str] = Counter()
    n_rows = 0
    with _counter("checking") as advance:
        for row, reason in checking.check(pack.rows_of(path, source, media), decode=decode):
            advance(1)
            n_rows += 1
            if reason:
                checking.tally(reasons, reason)
                if as_json:
                    print_json([{"row": row.line, "id": row.id, "reason": reason}])
                else:
                    typer.echo(f"row {row.line}: {reason}")
    if not as_json:
        _total(n_rows, reasons, err=False)
    if reasons:
        raise typer.Exit(1)


def convert(
    path: PathArgument,
    out: Annotated[Path, typer.Argument(help=".jsonl, .parquet, .tar or a folder of shards.")],
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
) -> None:
    """Write rows as records: JSONL, or Parquet or WebDataset that carry their media."""
    reasons: Counter[str] = Counter()
    n_rows = 0
    with _counter("converting") as advance:

        def seen(row: Row) -> None:
            nonlocal n_rows
            advance(1)
            n_rows += 1
            if isinstance(row.content, Failed):
                checking.tally(reasons, row.content.error)
                typer.echo(f"row {row.line}: {row.content.error}", err=True)

        pack.convert(pack.rows_of(path, source, media), out, seen)
    _total(n_rows, reasons, err=True)
    typer.echo(out)
    if reasons:
        raise typer.Exit(1)


def mix(
    recipe: Annotated[Path, typer.Argument(help="A YAML file.")],
    out: Annotated[Path, typer.Argument(help="Folder for train.jsonl, test.jsonl, report.json.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
) -> None:
    """Mix sources into a training file and a test file."""
    loaded = load_config(mixing.Mix, recipe, overrides or [])
    with _counter("mixing") as advance:
        report = mixing.mix(loaded, out, advance)
    names = ("read", "bad", "leaked", "duplicate", "subsampled", "written", "twins")
    table = Table("source", *names, box=None)
    for one in report["sources"]:
        counts = Counter[str]()
        for cell in one["cells"].values():
            counts.update(cell)
        counts |= {"read": one["read"], "bad": sum(one["bad"].values())}
        told = Text(f"{one['path']} ({one['source']})")
        table.add_row(told, *(f"{counts[name]:,}" for name in names))
    Console().print(table)
    for name, n_lines in report["splits"].items():
        typer.echo(f"{out / name}.jsonl: {n_lines:,} rows")
    if any(one["bad"] for one in report["sources"]):
        raise typer.Exit(1)


def stats(
    path: PathArgument,
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Rows shown.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("stats.html"),
) -> None:
    """Write a page with counts and random rows."""
    with _counter("reading") as advance:

        def watched() -> Iterator[Row]:
            for row in pack.rows_of(path, source, media):
                advance(1)
                yield row

        found = counting.gather(watched(), n=n, seed=seed)
    counting.page(found, str(path)).write(out)
    typer.echo(out)


@contextmanager
def _counter(title: str) -> Iterator[Callable[[int], None]]:
    """Progress towards an end nobody knows, on standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"))
    # Redirected, standard output would be written to standard error, also where it is a file.
    with Progress(
        *columns, TimeElapsedColumn(), console=console, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda n: progress.advance(task, n)


def _total(n_rows: int, reasons: Counter[str], *, err: bool) -> None:
    for reason, n in reasons.most_common():
        typer.echo(f"{n:,} x {reason}", err=err)
    typer.echo(f"{n_rows:,} rows, {reasons.total():,} bad", err=err)
