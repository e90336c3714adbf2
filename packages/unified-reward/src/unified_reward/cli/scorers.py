"""``unified-reward scorers``: cards of the published scorers, and a check of their files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import completions, options, output
from unified_reward.cli.groups import make_app
from unified_reward.core.extensions import extra
from unified_reward.scorers import SYSTEMS, system
from unified_reward.scorers.card import ScoreCard


app = make_app("scorers", {}, help="List the published scorers and what their numbers mean.")


@app.callback(invoke_without_command=True, no_args_is_help=False)
def cards(context: typer.Context, *, as_json: options.JsonOption = False) -> None:
    """List the published scorers and what their numbers mean."""
    if context.invoked_subcommand is not None:
        return
    from unified_reward.judges import checklist
    from unified_reward.scorers import critics

    with extra("local"):
        cards = [system(name).card for name in SYSTEMS]
    cards += [*checklist.CARDS.values(), *critics.CARDS.values()]
    if as_json:
        output.print_json([asdict(card) for card in cards])
        return
    console = Console(highlight=False)
    for card in cards:
        console.print(Text.assemble((card.name, "bold"), f"  {card.system}, arXiv:{card.paper}"))
        table = Table("", "", box=None, show_header=False, padding=(0, 1))
        for title, lines in _lines(card).items():
            for i, line in enumerate(lines):
                table.add_row(Text("" if i else title, "dim"), Text(line))
        console.print(table)


def _lines(card: ScoreCard) -> dict[str, tuple[str, ...]]:
    constants = ", ".join(f"{name} {value:g}" for name, value in card.constants.items())
    lines = {
        "judges": (", ".join(task.value for task in card.tasks),),
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
    return {title: texts for title, texts in lines.items() if any(texts)}


@app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the scorer, as in NAME:WEIGHTS.", autocompletion=completions.scorers
        ),
    ],
    path: Annotated[Path, typer.Argument(help="Folder with its files.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Check the files of a scorer without loading weights; exit 1 if something is missing.

    Prints the answers of the files to questions that no published source answers.
    """
    with extra("local"):
        kind = system(name)
        from unified_reward.scorers.loading import check, lacking_words

    result = check(kind, path)
    words = lacking_words(kind)
    facts = kind.facts(path)
    if as_json:
        keys = asdict(result.keys) if result.keys else None
        files = [str(file) for file in result.files]
        row = {"name": name, "files": files, "keys": keys, "problems": [*result.problems]}
        row["words"] = words
        row["facts"] = [fact._asdict() for fact in facts]
        output.print_json([row])
    else:
        console = Console(soft_wrap=True)
        for file in result.files:
            console.print(Text.assemble("weights  ", str(file)))
        if result.keys:
            console.print(Text.assemble("tensors  ", str(result.keys)))
        for fact in facts:
            console.print(Text.assemble(("open     ", "yellow"), fact.question))
            console.print(f"    found    {fact.found}", markup=False)
            console.print(f"    settles  {fact.settles}", markup=False)
        for problem in words:
            console.print(Text.assemble(("words    ", "red"), problem))
        for problem in result.problems:
            console.print(Text.assemble(("missing  ", "red"), problem))
        if not (result.problems or words):
            console.print(Text.assemble(("complete", "green"), f"  load as {name}:{path}"))
    output.exit_if(result.problems or words)
