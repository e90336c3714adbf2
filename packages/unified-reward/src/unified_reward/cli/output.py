"""Verdicts on the terminal: JSON rows for machines, a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.verdicts import Ranking, Verdict
from unified_reward.io.verdict_rows import verdict_row


def show(
    judge: BaseJudge, verdicts: Sequence[tuple[str, Verdict | Ranking]], *, as_json: bool
) -> None:
    """Print named verdicts and leave with 1 if any is missing."""
    rows = [
        verdict_row(name, verdict, judge=judge.name, family=judge.family)
        for name, verdict in verdicts
    ]
    if as_json:
        print_json(rows)
    else:
        table = Table("", "verdict", box=None)
        for row in rows:
            table.add_row(Text(row["id"]), Text(describe(row)))
        Console().print(table)
    if any(row["status"] in ("unparsed", "failed") or row["reason"] for row in rows):
        raise typer.Exit(1)


def print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """One row a line on standard output."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def describe(row: Mapping[str, Any]) -> str:
    """A verdict row in a few words."""
    match row["status"]:
        case "scored" if row["value"] is not None:
            low, high = row["scale"]
            spread = f" ± {row['sigma']:.2f}" if row["sigma"] is not None else ""
            said = f"{row['value']:.2f}{spread}"
            return said if low is None or high is None else f"{said}  on {low:g} to {high:g}"
        case "scored":
            return ", ".join(f"{name} {value:.2f}" for name, value in row["aspects"].items())
        case "preferred":
            shares = f"first {row['p_first']:.0%}, tie {row['p_tie']:.0%}"
            said = f"{row['winner']}  ({shares}, second {row['p_second']:.0%})"
            return said + ("" if row["consistent"] in (True, None) else "  [the orders disagree]")
        case "ranked":
            return " > ".join(str(i + 1) for i in row["order"])
        case _:
            return f"{row['status']}: {row['reason']}"
