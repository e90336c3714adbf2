"""``unified-reward export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import output
from unified_reward.cli.progress import bar, rows_in
from unified_reward.pairs.export import Format, export_pairs


def export(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="File of pairs.")],
    out: Annotated[Path, typer.Argument(help=".parquet or .json file, depending on the format.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="Trainer that reads it.")],
) -> None:
    """Export the kept pairs in the format of another trainer."""
    with bar("exporting", rows_in(pairs)) as advance:
        counts = export_pairs(
            pairs,
            out,
            form,
            log=lambda reason: typer.echo(reason, err=True),
            on_progress=advance,
        )
    names = ("written", "dropped", "failed", "unusable")
    typer.echo(", ".join(f"{counts[name]:,} {name}" for name in names), err=True)
    typer.echo(out)
    output.exit_if([counts["unusable"]])
