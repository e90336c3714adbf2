"""``unified-reward templates``: official wordings, read from a user's own clone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import options, output
from unified_reward.cli.groups import make_app
from unified_reward.prompts.packs import REPOSITORY, import_pack


app = make_app("templates", {}, help="Import the official wordings of published judges.")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help=f"Your clone of {REPOSITORY}, or of a scorer.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Import the wordings of a clone after checking them; exit 1 if some are missing."""
    pack, wordings = import_pack(path)
    if as_json:
        output.print_json([wording._asdict() for wording in wordings])
    else:
        table = Table("wording", "file", "status", "", box=None)
        for wording in wordings:
            table.add_row(*map(Text, wording))
        Console().print(table)
        typer.echo(pack)
        output.say_next("score", "FILE", "--prompt", "TEXT", "--judge", "HUB_ID")
    output.exit_if(wording.status != "verified" for wording in wordings)
