"""``unified-reward show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli.output import exit_if, say_next
from unified_reward.cli.progress import bar, rows_in
from unified_reward.core.words import count_of
from unified_reward.io.atomic import keep_inputs
from unified_reward.pairs.show import page


def show(
    file: Annotated[Path, typer.Argument(help="File of pairs or candidates.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Page to write; default FILE as .html.")] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Number of rows on the page.")] = 24,
    status: Annotated[
        str, typer.Option(metavar="kept|dropped|failed", help="Only rows of this status.")
    ] = "",
) -> None:
    """Write an HTML page with the counts and the first rows of a file."""
    out = out or file.with_suffix(".html")
    keep_inputs(out, file)
    with bar("writing", rows_in(file)) as advance:
        made, counts = page(file, n=n, status=status, advance=advance)
    made.write(out)
    typer.echo(out)
    if counts["kept"]:
        say_next("dpo", file, "--policy", "POLICY")
    elif counts["generated"]:
        say_next("pairs", file, "PAIRS.jsonl", "--judge", "JUDGE")
    if n_unusable := counts["unusable"]:
        rows = count_of(n_unusable, "row is", "rows are")
        typer.echo(f"{rows} not of candidates, pairs or data; the page says why", err=True)
    exit_if([n_unusable])
