"""``unified-reward audit``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified_reward.bench.audit import audit as run_audit
from unified_reward.bench.page import write_audit_page
from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.io.atomic import write_json
from unified_reward.io.rows import Row, read_examples


@options.opens_judge
def audit(
    *,
    data: Annotated[Path, typer.Option(help="JSONL of items, with or without labels.")],
    judge: options.JudgeArguments,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of items, from the start of the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and audit.html.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what should not move a judge: order, length, repeats, resolution, JPEG."""
    rows = list(read_examples(data))
    broken = list(filter(None, map(_unusable, rows)))
    usable = (row.content for row in rows if isinstance(row.content, Example))
    usable = (content for content in usable if content.candidates)
    examples = list(islice(usable, limit))
    if not examples:
        raise DataError(f"{data} has no usable item{f': {broken[0]}' if broken else ''}")
    for reason in broken:
        typer.echo(reason, err=True)
    opened = judge.open(truth=[example.as_comparison() for example in examples])
    with bar("audit", None) as advance:
        audited = run_audit(opened, examples, on_progress=advance)
    report = {**audited.report, "n_broken_rows": len(broken)}
    if out:
        write_json(out / "audit.json", report)
        write_audit_page(audited, out / "audit.html")
    if as_json:
        output.print_json([report])
    else:
        Console().print(output.report_table(report))
        if out:
            typer.echo(f"page: {out / 'audit.html'}")
    output.exit_if(report[name] for name in ("n_unparsed", "n_failed", "n_broken_rows"))


def _unusable(row: Row) -> str:
    if isinstance(row.content, Failed):
        return row.content.reason
    return "" if row.content.candidates else f"line {row.line}: no candidates to ask about"
