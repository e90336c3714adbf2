"""``unified-reward candidates``: what a policy makes of prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from unified_reward import policies
from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.extensions import checkpoint_path
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.policies.candidates import make_candidates


_BATCH = "Candidates in one pass; default 16 answers, 4 drawn ones."
_Size = Annotated[int | None, typer.Option(min=1, help="Pixels; default the pipeline's own.")]


def candidates(
    source: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", help="Rows of prompts.")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="candidates.jsonl and media/.")],
    *,
    policy: Annotated[str, typer.Option(help="A VLM or a diffusers pipeline: folder or hub id.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates of a prompt.")] = 10,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Of a VLM; default 0.7.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default 256.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of denoising.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of guidance.")] = None,
    height: _Size = None,
    width: _Size = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a clip.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, help="Of a clip; default 8.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=_BATCH)] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Make candidates of every prompt; a stopped run goes on where it was."""
    ids = [row.id for row in read_examples(source)]
    given = {"temperature": temperature, "max_new_tokens": max_new_tokens, "steps": steps}
    given |= {"guidance": guidance, "height": height, "width": width, "frames": frames, "fps": fps}
    # Before anything is written: one that cannot be loaded leaves nothing to go on with.
    maker = policies.load(checkpoint_path(policy), given, batch_size=batch_size)
    maker.name = policy
    journal = Journal(out / "candidates.jsonl")
    with bar("making", len(ids), done=sum(one in journal.done for one in ids)) as advance:
        for row in make_candidates(read_examples(source), journal, maker, n=n, seed=seed):
            advance(1)
            if as_json:
                output.print_json([row])
    statuses = Counter(journal.done[one] for one in ids)
    if not as_json:
        typer.echo(", ".join(f"{n} {status}" for status, n in sorted(statuses.items())))
    if statuses["failed"]:
        raise typer.Exit(1)
