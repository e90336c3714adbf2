"""``unified-reward judge``: a file of samples, in bulk, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.judges import bulk


_CHUNK = 64


def judge(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Sample rows.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Verdict rows, appended.")],
    *,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    orders: options.OrdersOption = 2,
    engine: options.EngineOption = bulk.Engine.LOCAL,
    workers: options.WorkersOption = 1,
    as_json: options.JsonOption = False,
) -> None:
    """Judge every sample of a file; a run that was stopped goes on where it was."""
    work = bulk.JudgeWork(source, judge, model, family, options.both(orders))
    ids = [row.id for row in read_examples(source)]
    journal = Journal(out)
    asked = {"judge": judge, "model": model, "family": family, "orders": orders}
    check_run_config(out, asked)
    lines = bulk.lines_of(source, read_examples(source))
    with bar("judging", len(ids), done=sum(one in journal.done for one in ids)) as advance:
        for rows in bulk.run(work, lines, journal, size=_CHUNK, engine=engine, workers=workers):
            advance(len(rows))
            if as_json:
                output.print_json(rows)
    if any(journal.done[one] in ("unparsed", "failed") for one in ids):
        raise typer.Exit(1)
