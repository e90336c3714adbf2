"""Results on the terminal: JSON rows for programs, tables for people."""

from __future__ import annotations

import codecs
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unified_reward.core.verdicts import Ranking, Verdict
from unified_reward.core.words import count_of
from unified_reward.io.verdict_rows import NOTE, verdict_row


if TYPE_CHECKING:
    from unified_reward.core.base_judge import BaseJudge


def print_verdicts(
    judge: BaseJudge, verdicts: Sequence[tuple[str, Verdict]], *, as_json: bool
) -> None:
    """Print named verdicts; exit with 1 if any is missing."""
    rows = [
        verdict_row(name, verdict, judge=judge.name, family=judge.family)
        for name, verdict in verdicts
    ]
    reasons = [row["reason"] or "" for row in rows]
    if as_json:
        print_json(rows)
    else:
        table = Table("", "verdict", box=None)
        for row in rows:
            table.add_row(Text(row["id"]), Text(describe(row)))
        Console().print(table)
        for note in dict.fromkeys(reason for reason in reasons if reason.startswith(NOTE)):
            typer.echo(note, err=True)
    exit_if(reason and not reason.startswith(NOTE) for reason in reasons)


def print_ranking(
    judge: BaseJudge, prompt: str, names: Sequence[str], ranking: Ranking, *, as_json: bool
) -> None:
    """Print the candidates of a prompt, best first; exit with 1 if one has no answer."""
    row = verdict_row(prompt, ranking, judge=judge.name, family=judge.family)
    reason = row["reason"] or ""
    if as_json:
        print_json([row])
    else:
        places = {i: str(place) for place, i in enumerate(ranking.order, 1)}
        left_out = [i for i in range(len(names)) if i not in places]
        table = Table(box=None, show_header=False)
        for i in (*ranking.order, *left_out):
            score = ranking.scores[i]
            value = "" if score is None else f"{score:.2f}"
            table.add_row(places.get(i, "-"), Text(names[i]), value)
        Console().print(table)
        if reason:
            typer.echo(reason, err=True)
    exit_if([reason and not reason.startswith(NOTE)])


def print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per line on standard output."""
    is_unicode = codecs.lookup(sys.stdout.encoding or "ascii").name.startswith("utf")
    for row in rows:
        text = json.dumps(row, ensure_ascii=not is_unicode, allow_nan=False)
        sys.stdout.write(text.encode(errors="replace").decode() + "\n")


def print_counts(statuses: Counter[str]) -> None:
    """Print the number of rows of each status on one line."""
    typer.echo(", ".join(f"{n} {status}" for status, n in sorted(statuses.items())))


def hint_at_failed(n: int) -> None:
    """Say on standard error how rows that failed are asked again."""
    if n:
        them = "it" if n == 1 else "them"
        typer.echo(f"{count_of(n, 'row')} failed; --retry-failed asks {them} again", err=True)


def say_next(*command: object) -> None:
    """Name the command that takes what was just made, on a terminal alone.

    Args:
        command: Its words behind ``unified-reward``; capitals are left to the reader, as in help.
    """
    if sys.stderr.isatty():
        typer.echo(f"next: unified-reward {shlex.join(map(str, command))}", err=True)


def exit_if(failures: Iterable[object]) -> None:
    """Exit with 1 if any item was not answered."""
    if any(failures):
        raise typer.Exit(1)


def format_number(value: float | None) -> str:
    """Number with three decimals; a dash if there is none."""
    return "-" if value is None else f"{value:.3f}"


def report_table(report: Mapping[str, Any]) -> Table:
    """Table of all metrics of a benchmark report."""
    # Names are not cut where it is narrow: those of groups go on in the next line.
    names = Column("", overflow="fold"), Column("metric", no_wrap=True)
    title = f"{report['name']}: {report['judge']}"
    table = Table(*names, Column("value", no_wrap=True), "95 %", "n", title=title)
    for group, metrics in [("all", report["metrics"]), *report["groups"].items()]:
        for i, (name, metric) in enumerate(metrics.items()):
            low, high = map(format_number, metric["ci95"])
            interval = "-" if low == high == "-" else f"{low} to {high}"
            value = format_number(metric["value"])
            table.add_row("" if i else group, name, value, interval, str(metric["n"]))
    return table


def describe(row: Mapping[str, Any]) -> str:
    """Verdict row in a few words."""
    match row["status"]:
        case "scored" if row["value"] is not None:
            low, high = row["scale"]
            spread = f" ± {row['sigma']:.2f}" if row["sigma"] is not None else ""
            scale = "" if low is None or high is None else f"  on {low:g} to {high:g}"
            return f"{row['value']:.2f}{spread}{scale}"
        case "scored":
            return ", ".join(f"{name} {value:.2f}" for name, value in row["aspects"].items())
        case "preferred":
            shares = f"first {row['p_first']:.0%}, tie {row['p_tie']:.0%}"
            note = "" if row["consistent"] in (True, None) else "  [the orders disagree]"
            return f"{row['winner']}  ({shares}, second {row['p_second']:.0%}){note}"
        case _:
            return f"{row['status']}: {row['reason']}"
