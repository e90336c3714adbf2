"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from unified_reward.judges.bulk import Engine


JudgeOption = Annotated[
    str,
    typer.Option(
        "--judge",
        help="tiny_judge (the default), tiny_scalar, a folder, scripted:KIND, table:FILE, "
        "NAME:WEIGHTS of a published scorer, a URL or a hub id.",
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="A server's model; default its only one.")
]
FamilyOption = Annotated[
    str | None, typer.Option("--family", help="How to ask; default as the checkpoint says.")
]
OrdersOption = Annotated[
    int, typer.Option("--orders", min=1, max=2, help="Ask comparisons in one order, or both.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON row a line, nothing else.")]
ImageOption = Annotated[str | None, typer.Option("--image", help="The picture asked about.")]
VideoOption = Annotated[str | None, typer.Option("--video", help="The clip asked about.")]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="The picture before, where files are edits of it.")
]
AnswerOption = Annotated[
    list[str] | None, typer.Option("--answer", help="An answer to judge; may be repeated.")
]
PromptOption = Annotated[str, typer.Option("--prompt", help="The caption, or the question.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="Here, or on a Ray cluster.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Of engine ray, each with its own judge.")
]


def both(orders: int) -> Literal[1, 2]:
    """The number of orders as the judge takes it."""
    return 1 if orders == 1 else 2
