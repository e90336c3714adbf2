"""``unified-reward pairs``: preference pairs from candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.bulk import run_bulk
from unified_reward.judges import bulk
from unified_reward.pairs.bulk import CHUNK, PairWork
from unified_reward.pairs.strategies import CONFIDENCE, PairOptions, Strategy


@options.opens_judge
def pairs(
    source: Annotated[Path, typer.Argument(metavar="CANDIDATES.jsonl", help="Rows of candidates.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Rows of pairs, appended.")],
    *,
    judge: options.JudgeArguments,
    strategy: Annotated[
        Strategy, typer.Option(help="Method that picks the pair of a prompt.")
    ] = Strategy.RANK_AND_SIFT,
    margin: Annotated[
        float,
        typer.Option(min=0, help="Chosen minus rejected score must be above this."),
    ] = 0.0,
    min_quality: Annotated[
        float | None, typer.Option(help="Lowest score of a chosen candidate.")
    ] = None,
    orders: options.OrdersOption = 2,
    readings: Annotated[
        int, typer.Option(min=1, help="Times that each score is asked and averaged.")
    ] = 1,
    rounds: Annotated[
        int, typer.Option(min=0, help="Swiss rounds of a tournament; 0 compares all with all.")
    ] = 0,
    confidence: Annotated[
        float | None,
        typer.Option(help=f"Adaptive: probability at which it asks no more; default {CONFIDENCE}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    engine: Annotated[
        bulk.Engine, typer.Option(help="This process, or a Ray cluster.")
    ] = bulk.Engine.LOCAL,
    workers: options.WorkersOption = 1,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Make a preference pair from the candidates of each prompt; resumes a stopped run."""
    config = PairOptions(
        strategy,
        margin,
        min_quality,
        options.orders_of(orders),
        readings,
        rounds,
        seed,
        confidence,
    )
    work = PairWork(out.parent, judge.judge, judge.options(), config)
    statuses = run_bulk(
        work,
        source,
        out,
        size=CHUNK,
        engine=engine,
        workers=workers,
        retry_failed=retry_failed,
        as_json=as_json,
    )
    if not as_json:
        output.print_counts(statuses)
        output.say_next("show", out)
    output.exit_if([statuses["failed"]])
