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


@options.opens_judge
def judge(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Rows of samples.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Rows of verdicts, appended.")],
    *,
    judge: options.JudgeArguments,
    orders: options.OrdersOption = 2,
    engine: Annotated[
        bulk.Engine, typer.Option(help="This process, or a Ray cluster.")
    ] = bulk.Engine.LOCAL,
    workers: options.WorkersOption = 1,
    as_json: options.JsonOption = False,
) -> None:
    """Judge every sample of a file; resumes a stopped run."""
    work = bulk.JudgeWork(source, judge.judge, judge.model, judge.family, options.orders_of(orders))
    ids = [row.id for row in read_examples(source)]
    journal = Journal(out)
    config = {"judge": judge.judge, "model": judge.model, "family": judge.family, "orders": orders}
    check_run_config(out, config)
    lines = bulk.lines_of(source, read_examples(source))
    with bar("judging", len(ids), done=sum(name in journal.done for name in ids)) as advance:
        for rows in bulk.run(work, lines, journal, size=_CHUNK, engine=engine, workers=workers):
            advance(len(rows))
            if as_json:
                output.print_json(rows)
    output.exit_if(journal.done[name] in ("unparsed", "failed") for name in ids)
