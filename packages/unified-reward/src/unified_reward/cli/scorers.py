"""``unified-reward scorers``: the cards of the published scorers, and what a folder holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import options, output
from unified_reward.scorers import SYSTEMS, system
from unified_reward.scorers.card import ScoreCard


app = typer.Typer(help="Published scorers behind NAME:WEIGHTS.")


@app.callback(invoke_without_command=True)
def cards(context: typer.Context, *, as_json: options.JsonOption = False) -> None:
    """Print what the numbers of every scorer mean; with --json, all that its card says."""
    if context.invoked_subcommand is not None:
        return
    from unified_reward.judges import checklist
    from unified_reward.scorers import critics

    told = [system(name).card for name in SYSTEMS]
    told += [*checklist.CARDS.values(), *critics.CARDS.values()]
    if as_json:
        output.print_json([asdict(card) for card in told])
        return
    console = Console(highlight=False)
    for card in told:
        console.print(Text.assemble((card.name, "bold"), f"  {card.system}, arXiv:{card.paper}"))
        table = Table("", "", box=None, show_header=False, padding=(0, 1))
        for title, lines in _lines(card).items():
            for i, line in enumerate(lines):
                table.add_row(Text("" if i else title, "dim"), Text(line))
        console.print(table)


def _lines(card: ScoreCard) -> dict[str, tuple[str, ...]]:
    constants = ", ".join(f"{name} {value:g}" for name, value in card.constants.items())
    told = {
        "judges": (card.task.value,),
        "values": (card.values,),
        "aspects": (", ".join(card.aspects),),
        "overall": (card.overall,),
        "constants": (constants,),
        "frames": (card.frames,),
        "compares": (f"by the logistic at temperature {card.temperature:.3g}",),
        "": (card.temperature_source,),
        "weights": (*card.weights, f"licence {card.weights_licence}, code {card.code_licence}"),
        "wording": (", ".join(card.wording),),
        "differs": card.deviations,
        "checked": card.verified,
        "open": card.open_questions,
    }
    return {title: lines for title, lines in told.items() if any(lines)}


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Of the scorer, as in NAME:WEIGHTS.")],
    path: Annotated[Path, typer.Argument(help="The folder with its files.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Say what a folder holds and lacks of a scorer, without loading weights; ends with 1 if so."""
    kind = system(name)
    from unified_reward.scorers.loading import check

    holding = check(kind, path)
    if as_json:
        keys = asdict(holding.keys) if holding.keys else None
        files = [str(one) for one in holding.files]
        row = {"name": name, "files": files, "keys": keys, "problems": [*holding.problems]}
        output.print_json([row])
    else:
        console = Console(soft_wrap=True)
        for file in holding.files:
            console.print(Text.assemble("weights  ", str(file)))
        if holding.keys:
            console.print(Text.assemble("tensors  ", str(holding.keys)))
        for problem in holding.problems:
            console.print(Text.assemble(("lacking  ", "red"), problem))
        if not holding.problems:
            console.print(Text.assemble(("complete", "green"), f"  load as {name}:{path}"))
    if holding.problems:
        raise typer.Exit(1)
