"""``unified-reward dpo``: align a policy on preference pairs."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified_reward.cli import options
from unified_reward.core.extensions import checkpoint_path
from unified_reward.io.config import load_config


_STEPS = "steps: 100, batch_size: 8, accumulate: 2, warmup: 0.1, lora_rank: 16, save_every: 50"
_USUAL = {kind: f"optim={{{_STEPS}, lr: {lr}}}" for kind, lr in (("vlm", 5e-5), ("drawing", 1e-4))}
"""What overrides begin from."""


def dpo(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="Pairs; kept ones count.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    policy: Annotated[str, typer.Option(help="A VLM or a diffusers pipeline: folder or hub id.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default PAIRS-dpo beside PAIRS.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Align a policy by DPO; a stopped run goes on where it was."""
    from unified_reward import policies
    from unified_reward.recipes.run import Recipe
    from unified_reward.recipes.run import run as run_recipe
    from unified_reward.train.dpo import PolicyDPO
    from unified_reward.train.dpo_diffusion import DiffusionDPO
    from unified_reward.train.dpo_vlm import VLMDPO

    given = overrides or []
    if policies.is_pipeline(checkpoint_path(policy)):
        drawing = load_config(DiffusionDPO, overrides=[_USUAL["drawing"], *given])
        config = PolicyDPO(policy, pairs, diffusion=drawing)
    else:
        config = PolicyDPO(policy, pairs, load_config(VLMDPO, overrides=[_USUAL["vlm"], *given]))
    out = out or pairs.with_name(f"{pairs.stem}-dpo")
    console = Console(stderr=True)
    # Standard output is for the result; progress of a training goes the other way.
    with redirect_stdout(sys.stderr):
        report = run_recipe(Recipe(out, dpo=config), lambda line: console.print(line, markup=False))
    if not report:
        return
    told = report["dpo"]
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        first, last = (told["losses"][i][1] for i in (0, -1))
        typer.echo(f"{told['pairs']} pairs, loss {first:.3f} to {last:.3f}: {out / 'dpo'}")
    if told["left_out"]:
        raise typer.Exit(1)
