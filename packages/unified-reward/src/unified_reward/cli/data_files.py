"""``unified-reward data check|convert|mix|stats``: files of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import options
from unified_reward.cli.output import print_json
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data import check as checking
from unified_reward.data import mix as mixing
from unified_reward.data import pack
from unified_reward.data import stats as counting
from unified_reward.data.sources import source_of
from unified_reward.data.sources.annotated import agreement
from unified_reward.data.sources.streams import raw_rows
from unified_reward.io.config import load_config
from unified_reward.io.rows import Row


PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A file of rows.")]
SourceOption = Annotated[
    str, typer.Option("--source", help="records for our own files, or a published source's name.")
]
MediaOption = Annotated[
    Path | None,
    typer.Option("--media", help="Where a published source's media lie; default beside the file."),
]
ScaleOption = Annotated[
    str, typer.Option("--scale", metavar="LOW,HIGH", help="Of ratings of your own; default 1,5.")
]


def _scale(given: str) -> Scale | None:
    if not given:
        return None
    try:
        low, high = map(float, given.split(","))
    except ValueError as error:
        raise ConfigError(f"a scale is two numbers such as 0,100, not {given!r}") from error
    if not low < high:
        raise ConfigError(f"a scale rises, {given!r} does not")
    return Scale(low, high)


def check(
    path: PathArgument,
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    scale: ScaleOption = "",
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every picture and every frame; slow.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List every row that cannot be used, and why."""
    reasons: Counter[str] = Counter()
    n_rows = 0
    with bar("checking", None) as advance:
        for row, reason in checking.check(
            pack.rows_of(path, source, media, _scale(scale)), decode=decode
        ):
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
    scale: ScaleOption = "",
) -> None:
    """Write rows as records: JSONL, or Parquet or WebDataset that carry their media."""
    reasons: Counter[str] = Counter()
    n_rows = 0
    with bar("converting", None) as advance:

        def seen(row: Row) -> None:
            nonlocal n_rows
            advance(1)
            n_rows += 1
            if isinstance(row.content, Failed):
                checking.tally(reasons, row.content.error)
                typer.echo(f"row {row.line}: {row.content.error}", err=True)

        pack.convert(pack.rows_of(path, source, media, _scale(scale)), out, seen)
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
    with bar("mixing", None) as advance:
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
    scale: ScaleOption = "",
    n: Annotated[int, typer.Option("--n", min=0, help="Rows shown.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("stats.html"),
) -> None:
    """Write a page with counts and random rows."""
    with bar("reading", None) as advance:

        def watched() -> Iterator[Row]:
            for row in pack.rows_of(path, source, media, _scale(scale)):
                advance(1)
                yield row

        found = counting.gather(watched(), n=n, seed=seed)
    agreed = None
    if source.startswith("annotated."):
        agreed = agreement(raw_rows(path), source_of(source, _scale(scale)))
    counting.page(found, str(path), agreed).write(out)
    typer.echo(out)


def _total(n_rows: int, reasons: Counter[str], *, err: bool) -> None:
    for reason, n in reasons.most_common():
        typer.echo(f"{n:,} x {reason}", err=err)
    typer.echo(f"{n_rows:,} rows, {reasons.total():,} bad", err=err)
