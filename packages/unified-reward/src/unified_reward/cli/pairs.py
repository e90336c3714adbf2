"""``unified-reward pairs``: preference pairs out of candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.judges import bulk
from unified_reward.pairs.bulk import PairWork
from unified_reward.pairs.make import PairOptions, Strategy


_PROMPTS = 4


def pairs(
    source: Annotated[Path, typer.Argument(metavar="CANDIDATES.jsonl", help="Rows of candidates.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Pairs rows, appended.")],
    *,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    strategy: Annotated[
        Strategy, typer.Option(help="How a pair is found.")
    ] = Strategy.RANK_AND_SIFT,
    margin: Annotated[
        float, typer.Option(min=0, help="By how much the chosen one must score above the rejected.")
    ] = 0.0,
    min_quality: Annotated[float | None, typer.Option(help="Lowest score of a chosen one.")] = None,
    orders: options.OrdersOption = 2,
    readings: Annotated[int, typer.Option(min=1, help="Times a score is asked, averaged.")] = 1,
    rounds: Annotated[
        int, typer.Option(min=0, help="Swiss rounds of a tournament; 0 compares all with all.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    engine: options.EngineOption = bulk.Engine.LOCAL,
    workers: options.WorkersOption = 1,
    as_json: options.JsonOption = False,
) -> None:
    """Choose a better and a worse candidate of every prompt; a stopped run goes on where it was."""
    how = PairOptions(strategy, margin, min_quality, options.both(orders), readings, rounds, seed)
    work = PairWork(source, out, judge, model, family, how)
    ids = [row.id for row in read_examples(source)]
    journal = Journal(out)
    asked = {"judge": judge, "model": model, "family": family}
    check_run_config(out, asked | asdict(how))
    lines = bulk.lines_of(source, read_examples(source))
    with bar("pairing", len(ids), done=sum(one in journal.done for one in ids)) as advance:
        for rows in bulk.run(work, lines, journal, size=_PROMPTS, engine=engine, workers=workers):
            advance(len(rows))
            if as_json:
                output.print_json(rows)
    statuses = Counter(journal.done[one] for one in ids)
    if not as_json:
        typer.echo(", ".join(f"{n} {status}" for status, n in sorted(statuses.items())))
    if statuses["failed"]:
        raise typer.Exit(1)
