"""``unified-reward judge``: a file of samples, in bulk, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.bulk import run_bulk
from unified_reward.judges import bulk


@options.opens_judge
def judge(
    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="Rows of samples, candidates or pairs.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Rows of verdicts, appended.")],
    *,
    judge: options.JudgeArguments,
    orders: options.OrdersOption = 2,
    engine: Annotated[
        bulk.Engine, typer.Option(help="This process, or a Ray cluster.")
    ] = bulk.Engine.LOCAL,
    workers: options.WorkersOption = 1,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Judge every sample of a file; resumes a stopped run."""
    work = bulk.JudgeWork(source, judge.judge, judge.options(), options.orders_of(orders))
    statuses = run_bulk(
        work,
        source,
        out,
        size=bulk.CHUNK,
        engine=engine,
        workers=workers,
        retry_failed=retry_failed,
        as_json=as_json,
    )
    if statuses["preferred"] and not as_json:
        output.say_next("arena", source, "--judge-verdicts", out, "--out", "VOTES.jsonl")
    output.exit_if(statuses[name] for name in ("unparsed", "failed", "incomplete"))
