"""``unified-reward judge``: a file of samples, in bulk, resumable."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from unified_reward._cli import options, output
from unified_reward._cli.progress import bar
from unified_reward.judge import open_judge
from unified_reward.records import Journal, Row, read_records, verdict_row
from unified_reward.types import Conversation, DataError, Failed, Record, Verdict
from unified_reward.verbs import Asks


class Engine(StrEnum):
    """Where the judging runs."""

    LOCAL = "local"


_CHUNK = 64


def judge(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Sample rows.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Verdict rows, appended.")],
    *,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    orders: options.OrdersOption = 2,
    engine: Annotated[Engine, typer.Option(help="Where it runs.")] = Engine.LOCAL,
    as_json: options.JsonOption = False,
) -> None:
    """Judge every sample of a file; a run that was stopped goes on where it was."""
    rows = [_judgeable(row) for row in read_records(source)]
    journal = Journal(out)
    records = [row.content for row in rows if isinstance(row.content, Record)]
    opened = open_judge(judge, model=model, family=family, truth=records)
    others = journal.judges - {(opened.name, opened.family)}
    if others:
        told = ", ".join(f"{name} ({asked})" for name, asked in sorted(others))
        raise DataError(f"{out} holds verdicts of {told}; give this judge another file")
    todo = [row for row in rows if row.id not in journal.done]
    with bar("judging", len(rows), done=len(rows) - len(todo)) as advance:
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            verdicts = _verdicts(opened, chunk, orders)
            made = [
                verdict_row(row.id, verdict, judge=opened.name, family=opened.family)
                for row, verdict in zip(chunk, verdicts, strict=True)
            ]
            journal.append(made)
            advance(len(made))
            if as_json:
                output.print_json(made)
    if any(journal.done[row.id] in ("unparsed", "failed") for row in rows):
        raise typer.Exit(1)


def _judgeable(row: Row) -> Row:
    if not isinstance(row.content, Conversation):
        return row
    told = "a published conversation whose sample is not known cannot be judged"
    return replace(row, content=Failed(told))


def _verdicts(judge: Asks, rows: list[Row], orders: int) -> list[Verdict]:
    samples = [row.content.sample for row in rows if isinstance(row.content, Record)]
    answers = iter(judge.ask(samples, orders=options.both(orders)))
    return [
        next(answers) if isinstance(row.content, Record) else cast("Failed", row.content)
        for row in rows
    ]
