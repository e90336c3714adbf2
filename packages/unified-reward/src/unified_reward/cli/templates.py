"""``unified-reward templates``: official wordings, from a clone of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import options, output
from unified_reward.prompts.packs import REPOSITORY, import_pack


app = typer.Typer(help="Official wordings of the published judges.", no_args_is_help=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help=f"Your clone of {REPOSITORY}, or of a scorer.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Read the wordings out of a clone, verify and keep them; ends with 1 if not all are there."""
    pack, found = import_pack(path)
    if as_json:
        output.print_json([one._asdict() for one in found])
    else:
        table = Table("wording", "status", "file", "", box=None)
        for one in found:
            table.add_row(*map(Text, one))
        Console().print(table)
        typer.echo(pack)
    if any(one.status != "verified" for one in found):
        raise typer.Exit(1)
