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

from unified_reward.cli import completions, options
from unified_reward.cli.output import exit_if, print_json, say_next
from unified_reward.cli.progress import bar, rows_in
from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.core.words import count_of
from unified_reward.data import check as checking
from unified_reward.data import mix as mixing
from unified_reward.data import pack
from unified_reward.data import stats as counting
from unified_reward.data.sources import source_of
from unified_reward.data.sources.annotated import agreement
from unified_reward.data.sources.streams import raw_rows
from unified_reward.io.atomic import keep_inputs
from unified_reward.io.config import load_config
from unified_reward.io.rows import Row
from unified_reward.io.text import to_float


PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="File of rows.")]
SourceOption = Annotated[
    str,
    typer.Option(
        help="records for files of this project, or the name of a published source.",
        autocompletion=completions.sources,
    ),
]
MediaOption = Annotated[
    Path | None,
    typer.Option(help="Media folder of a published source; default the folder of the file."),
]
ScaleOption = Annotated[
    str, typer.Option(metavar="LOW,HIGH", help="Scale of your own ratings; default 1,5.")
]


def _scale(given: str) -> Scale | None:
    if not given:
        return None
    try:
        low, high = map(to_float, given.split(","))
        return Scale(low, high)
    except ValueError as error:
        raise ConfigError(
            f"--scale takes two numbers that rise, such as 0,100, not {given!r}"
        ) from error


def check(
    path: PathArgument,
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    scale: ScaleOption = "",
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image and every frame; slow.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List every unusable row and the reason."""
    reasons: Counter[str] = Counter()
    n_rows = 0
    with bar("checking", rows_in(path)) as advance:
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
    exit_if(reasons)


def convert(
    path: PathArgument,
    out: Annotated[
        Path, typer.Argument(help=".jsonl, .parquet or .tar file, or a folder of shards.")
    ],
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    scale: ScaleOption = "",
) -> None:
    """Write rows as JSONL, or as Parquet or WebDataset with their media inside."""
    keep_inputs(out, path)
    reasons: Counter[str] = Counter()
    n_rows = 0
    with bar("converting", rows_in(path)) as advance:

        def count(row: Row) -> None:
            nonlocal n_rows
            advance(1)
            n_rows += 1
            if isinstance(row.content, Failed):
                checking.tally(reasons, row.content.reason)
                typer.echo(f"row {row.line}: {row.content.reason}", err=True)

        pack.convert(pack.rows_of(path, source, media, _scale(scale)), out, count)
    _total(n_rows, reasons, err=True)
    typer.echo(out)
    say_next("data", "stats", out)
    exit_if(reasons)


def mix(
    recipe: Annotated[Path, typer.Argument(help="YAML file.")],
    out: Annotated[Path, typer.Argument(help="Folder for train.jsonl, test.jsonl, report.json.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
) -> None:
    """Mix sources into a training file and a test file."""
    loaded = load_config(mixing.Mix, recipe, overrides or [])
    with bar("mixing", None) as advance:
        report = mixing.mix(loaded, out, advance)
    names = ("read", "bad", "leaked", "duplicate", "subsampled", "written", "twins")
    skipped = ("dropped", "failed")
    table = Table("source", *names, *skipped, box=None)
    for source in report["sources"]:
        counts = Counter[str]()
        for cell in source["cells"].values():
            counts.update(cell)
        counts |= {"read": source["read"], "bad": sum(source["bad"].values())}
        counts |= {name: source[name] for name in skipped}
        title = Text(f"{source['path']} ({source['source']})")
        table.add_row(title, *(f"{counts[name]:,}" for name in (*names, *skipped)))
    Console().print(table)
    for name, n_lines in report["splits"].items():
        typer.echo(f"{out / name}.jsonl: {count_of(n_lines, 'row')}")
    say_next("data", "stats", out / "train.jsonl")
    exit_if(source["bad"] for source in report["sources"])


def stats(
    path: PathArgument,
    *,
    source: SourceOption = pack.RECORDS,
    media: MediaOption = None,
    scale: ScaleOption = "",
    n: Annotated[int, typer.Option("--n", min=0, help="Number of random rows on the page.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the rows.")] = 0,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("stats.html"),
) -> None:
    """Write an HTML page with counts and random rows."""
    keep_inputs(out, path)
    with bar("reading", rows_in(path)) as advance:

        def rows() -> Iterator[Row]:
            for row in pack.rows_of(path, source, media, _scale(scale)):
                advance(1)
                yield row

        counts = counting.gather(rows(), n=n, seed=seed)
    agreed = None
    if source.startswith("annotated."):
        agreed = agreement(raw_rows(path), source_of(source, _scale(scale)))
    counting.page(counts, str(path), agreed).write(out)
    typer.echo(out)
    exit_if(counts.bad)


def _total(n_rows: int, reasons: Counter[str], *, err: bool) -> None:
    for reason, n in reasons.most_common():
        typer.echo(f"{n:,} x {reason}", err=err)
    typer.echo(f"{count_of(n_rows, 'row')}, {reasons.total():,} bad", err=err)
