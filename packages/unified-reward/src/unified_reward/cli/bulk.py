"""Commands that work through a file of rows and can be resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from unified_reward.cli import output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config, config_path
from unified_reward.io.text import read_lines
from unified_reward.judges import bulk


def run_bulk(
    work: bulk.Work,
    source: Path,
    out: Path,
    config: Mapping[str, Any],
    *,
    size: int,
    engine: bulk.Engine,
    workers: int,
    as_json: bool,
) -> Counter[str]:
    """Append a row to ``out`` for every row of ``source`` that it lacks.

    Returns:
        Number of the rows of ``source`` by their status in ``out``; a ranked row that lacks
        candidates counts as ``incomplete``.

    Raises:
        ConfigError: ``out`` is the input, or was started with different settings.
        DataError: The input cannot be read, or ``out`` is no output of this judge.
    """
    n_rows = sum(1 for _ in read_lines(source))
    if out.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the input; give another output file")
    if not n_rows:
        typer.echo(f"{source} has no rows", err=True)
        raise typer.Exit(1)
    journal = Journal(out)
    # Without a config, the rows are first compared with those of the judge.
    if not journal.done or config_path(out).exists():
        check_run_config(out, config)
    statuses: Counter[str] = Counter()
    # Strict, so that a misspelt key, such as of criteria, changes no question unnoticed.
    rows = read_examples(source)
    chunks = bulk.run(work, rows, journal, size=size, engine=engine, workers=workers)
    with bar(out.name, n_rows) as advance:
        for chunk in chunks:
            advance(len(chunk.ids))
            statuses.update(_outcome(journal, name) for name in chunk.ids)
            if chunk.rows:
                check_run_config(out, config)
            if as_json:
                output.print_json(chunk.rows)
    return statuses


def _outcome(journal: Journal, name: str) -> str:
    status = journal.done[name]
    return "incomplete" if status == "ranked" and name in journal.with_reason else status
