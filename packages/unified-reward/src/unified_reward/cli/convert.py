"""``unified-reward convert``: original checkpoints to folders that transformers loads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from unified_reward.cli import completions, options, output
from unified_reward.cli.groups import make_app
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extra
from unified_reward.core.words import count_of
from unified_reward.io.lock import locked
from unified_reward.judges.card import Card
from unified_reward.prompts import FAMILIES, official


if TYPE_CHECKING:
    from unified_reward.checkpoints.llava_qwen import ConversionPlan


app = make_app(
    "convert", {}, help="Convert original checkpoints to folders that transformers loads."
)


@app.command("llava-qwen")
def llava_qwen(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="Original checkpoint.")],
    out: Annotated[Path, typer.Argument(help="New folder, or that of a stopped run.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; exit 1 if it cannot be converted.")
    ] = False,
    family: Annotated[
        str | None,
        typer.Option(
            help="Prompt family of the judge; written beside the weights.",
            autocompletion=completions.families,
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Convert LLaVA-Critic, or a UnifiedReward of LLaVA, to LLaVA-OneVision of transformers."""
    known = sorted({*FAMILIES, *official.FAMILIES})
    if family is not None and family not in known:
        raise ConfigError(f"no family {family!r}; there are {', '.join(known)}")
    with extra("local"):
        from unified_reward.checkpoints.llava_qwen import plan, write

    planned = plan(folder)
    if not dry_run:
        with locked(out), bar("converting", len(planned.names)) as advance:
            write(planned, out, progress=advance)
            if family is not None:
                Card(family, base=str(folder)).write(out)
    if as_json:
        output.print_json([_row(planned, None if dry_run else out)])
    else:
        console = Console(soft_wrap=True, highlight=False)
        for title, line in _lines(planned, None if dry_run else out):
            console.print(Text.assemble((f"{title:<9}", "red" if title == "problem" else ""), line))
        if not (dry_run or planned.problems):
            output.say_next("score", "FILE", "--prompt", "TEXT", "--judge", out)
    output.exit_if(planned.problems)


def _row(plan: ConversionPlan, out: Path | None) -> dict[str, Any]:
    return {
        "source": str(plan.source),
        "out": str(out) if out else None,
        "problems": plan.problems,
        "keys": asdict(plan.keys) if plan.keys else None,
        "names": plan.names,
        "ignored": plan.ignored,
        "notes": plan.notes,
        "shards": {shard.name: shard.n_bytes for shard in plan.shards},
        "bytes": plan.n_bytes,
        "config": plan.config,
    }


def _lines(plan: ConversionPlan, out: Path | None) -> list[tuple[str, str]]:
    lines = [("tensors", str(plan.keys))] if plan.keys else []
    if out is None:
        lines += [("left out", f"{name}: {why}") for name, why in sorted(plan.ignored.items())]
    lines += [("note", note) for note in plan.notes]
    lines += [("problem", problem) for problem in plan.problems]
    if plan.shards:
        lines.append(("size", f"{plan.n_bytes:,} bytes in {count_of(len(plan.shards), 'file')}"))
    if out:
        lines.append(("written", str(out)))
    return lines
