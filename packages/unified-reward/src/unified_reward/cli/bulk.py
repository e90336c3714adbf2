"""Commands that work through a file of rows and can be resumed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from unified_reward.cli import output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import DataError
from unified_reward.io.atomic import keep_inputs
from unified_reward.io.journal import open_journal
from unified_reward.io.row_file import RowFile
from unified_reward.io.text import read_lines
from unified_reward.judges import bulk


def count_rows(source: Path, out: Path) -> int:
    """Number of rows of an input, which are not parsed.

    Raises:
        ConfigError: The output is the input.
        DataError: The input cannot be read or has no rows.
    """
    keep_inputs(out, source)
    n_rows = sum(1 for _ in read_lines(source))
    if not n_rows:
        raise DataError(f"{source} has no rows")
    return n_rows


def run_bulk(
    work: bulk.Work,
    source: Path,
    out: Path,
    *,
    size: int,
    engine: bulk.Engine = bulk.Engine.LOCAL,
    workers: int = 1,
    retry_failed: bool,
    as_json: bool,
) -> Counter[str]:
    """Append a row to ``out`` for every row of ``source`` that it lacks.

    Returns:
        Number of the rows of ``source`` by their status in ``out``; a ranked row that lacks
        candidates counts as ``incomplete``.

    Raises:
        ConfigError: ``out`` is the input, is being written by another run, or was made with
            different settings, files or inputs.
        DataError: The input cannot be read or has no rows, or ``out`` is no output of this judge.
    """
    n_rows = count_rows(source, out)
    statuses: Counter[str] = Counter()
    first_failure = ""
    with open_journal(out) as journal:
        # Strict, so that a misspelt key, such as of criteria, changes no question unnoticed.
        chunks = bulk.run(
            work,
            RowFile(source),
            journal,
            size=size,
            engine=engine,
            workers=workers,
            retry_failed=retry_failed,
        )
        with bar(out.name, n_rows) as advance:
            for chunk in chunks:
                advance(len(chunk.ids) + sum(chunk.unread.values()))
                statuses.update(chunk.unread)
                statuses.update(journal.outcome(name) for name in chunk.ids)
                if as_json:
                    output.print_json(chunk.rows)
                failures = (row for row in chunk.rows if row.get("status") == "failed")
                if not first_failure and (row := next(failures, None)):
                    first_failure = _describe_failure(str(row["id"]), row["reason"] or "")
    if first_failure:
        typer.echo(first_failure, err=True)
    output.hint_at_failed(statuses["failed"] + statuses["incomplete"])
    return statuses


def _describe_failure(name: str, reason: str) -> str:
    """One failed row in words; reasons of rows that cannot be read name their line."""
    return f"failed: {reason if reason.startswith(name) else f'{name}: {reason}'}"
