"""``unified-reward export``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli.progress import bar
from unified_reward.pairs import export as exporting
from unified_reward.pairs.preferences import PairRow, read_pairs


def export(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="A file of pairs.")],
    out: Annotated[Path, typer.Argument(help=".parquet or .json, as the format asks.")],
    *,
    form: Annotated[exporting.Format, typer.Option("--format", help="Who reads it.")],
) -> None:
    """Write the kept pairs as a trainer reads them; ends with 1 if a row cannot be used."""
    with bar("exporting", None) as advance:

        def watched() -> Iterator[PairRow]:
            for row in read_pairs(pairs):
                yield row
                advance(1)

        counts = exporting.export(watched(), out, form, lambda why: typer.echo(why, err=True))
    names = ("written", "dropped", "failed", "unusable")
    typer.echo(", ".join(f"{counts[name]:,} {name}" for name in names), err=True)
    typer.echo(out)
    if counts["unusable"]:
        raise typer.Exit(1)
