"""``unified-reward audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified_reward.bench.audit import audit as ask
from unified_reward.bench.page import write_audit_page
from unified_reward.cli import options, output
from unified_reward.cli.bench import table
from unified_reward.cli.progress import bar
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import read_examples
from unified_reward.judges.registry import open_judge


def audit(
    *,
    data: Annotated[Path, typer.Option("--data", help="JSONL of items, with labels or without.")],
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items, the first of the file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and audit.html.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find out what moves a judge that should not: places, length, repetition, resolution, JPEG."""
    rows = [row.content for row in read_examples(data)]
    records = [one for one in rows if isinstance(one, Example)][:limit]
    broken = [one.error for one in rows if isinstance(one, Failed)]
    if not records:
        raise DataError(f"{data} holds no item{f': {broken[0]}' if broken else ''}")
    opened = open_judge(judge, model=model, family=family, truth=records)
    with bar("audit", None) as advance:
        audited = ask(opened, records, advance)
    report = {**audited.report, "n_broken_rows": len(broken)}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        (out / "audit.json").write_text(text + "\n", "utf-8")
        write_audit_page(audited, out / "audit.html")
    if as_json:
        output.print_json([report])
    else:
        Console().print(table(report))
    if any(report[name] for name in ("n_unparsed", "n_failed", "n_broken_rows")):
        raise typer.Exit(1)
