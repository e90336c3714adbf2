"""``unified-reward convert``: checkpoints in their authors' own layout as transformers' folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.prompts import FAMILIES, official


if TYPE_CHECKING:
    from unified_reward.checkpoints.llava_qwen import ConversionPlan


app = typer.Typer(help="Convert original checkpoints to folders that transformers loads.")


@app.callback()
def converters() -> None:
    """Convert original checkpoints to folders that transformers loads."""


@app.command("llava-qwen")
def llava_qwen(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="The original checkpoint.")],
    out: Annotated[Path, typer.Argument(help="A new folder, or one where this was stopped.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; ends with 1 if it cannot be done.")
    ] = False,
    family: Annotated[
        str | None, typer.Option("--family", help="How the judge is asked; kept beside it.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Convert LLaVA-Critic, or a UnifiedReward of LLaVA, to LLaVA-OneVision of transformers."""
    from unified_reward.checkpoints.llava_qwen import plan, write
    from unified_reward.judges.card import Card

    known = sorted({*FAMILIES, *official.FAMILIES})
    if family is not None and family not in known:
        raise ConfigError(f"no family {family!r}; there are {', '.join(known)}")
    made = plan(folder)
    if not dry_run:
        with bar("converting", len(made.names)) as advance:
            write(made, out, progress=advance)
        if family is not None:
            Card(family, base=str(folder)).write(out)
    if as_json:
        output.print_json([_row(made, None if dry_run else out)])
    else:
        console = Console(soft_wrap=True, highlight=False)
        for title, line in _lines(made, None if dry_run else out):
            console.print(Text.assemble((f"{title:<9}", "red" if title == "problem" else ""), line))
    if made.problems:
        raise typer.Exit(1)


def _row(plan: ConversionPlan, out: Path | None) -> dict[str, Any]:
    return {
        "source": str(plan.source),
        "out": str(out) if out else None,
        "problems": plan.problems,
        "keys": asdict(plan.keys) if plan.keys else None,
        "names": plan.names,
        "ignored": plan.ignored,
        "notes": plan.notes,
        "shards": {one.name: one.n_bytes for one in plan.shards},
        "bytes": plan.n_bytes,
        "config": plan.config,
    }


def _lines(plan: ConversionPlan, out: Path | None) -> list[tuple[str, str]]:
    told = [("tensors", str(plan.keys))] if plan.keys else []
    if out is None:
        told += [("left out", f"{name}: {why}") for name, why in sorted(plan.ignored.items())]
    told += [("note", one) for one in plan.notes]
    told += [("problem", one) for one in plan.problems]
    if plan.shards:
        told.append(("size", f"{plan.n_bytes:,} bytes in {len(plan.shards)} files"))
    if out:
        told.append(("written", str(out)))
    return told
