"""``unified-reward dpo``: align a policy on preference pairs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified_reward import policies
from unified_reward.cli import options, output
from unified_reward.core.extensions import checkpoint_path, extra
from unified_reward.core.words import count_of
from unified_reward.io.config import load_config
from unified_reward.io.text import read_lines


_STEPS = "steps: 100, batch_size: 8, accumulate: 2, warmup: 0.1, lora_rank: 16, save_every: 50"
_DEFAULTS = {
    kind: f"optim={{{_STEPS}, lr: {lr}}}" for kind, lr in (("vlm", 5e-5), ("diffusion", 1e-4))
}
"""Default settings, before the overrides."""


def dpo(
    pairs: Annotated[
        Path, typer.Argument(metavar="PAIRS.jsonl", help="File of pairs; the kept ones are used.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Options, such as optim.steps=60 beta=500."),
    ] = None,
    *,
    policy: options.PolicyOption,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default PAIRS-dpo beside the file.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Align a policy on preference pairs by DPO; resumes a stopped run."""
    next(read_lines(pairs), None)  # so that another kind of file is refused before a run begins
    with extra("train"):
        from unified_reward.recipes.run import run as run_recipe
        from unified_reward.recipes.stage import Recipe
        from unified_reward.train.dpo import PolicyDPO
        from unified_reward.train.dpo_diffusion import DiffusionDPO
        from unified_reward.train.dpo_vlm import VLMDPO

    given = overrides or []
    if policies.is_pipeline(checkpoint_path(policy)):
        diffusion = load_config(DiffusionDPO, overrides=[_DEFAULTS["diffusion"], *given])
        config = PolicyDPO(policy, pairs, diffusion=diffusion)
    else:
        vlm = load_config(VLMDPO, overrides=[_DEFAULTS["vlm"], *given])
        config = PolicyDPO(policy, pairs, vlm)
    out = out or pairs.with_name(f"{pairs.stem}-dpo")
    console = Console(stderr=True)
    # Trainers print their progress; standard output is for the result.
    with redirect_stdout(sys.stderr):
        reports = run_recipe(
            Recipe(out, {"dpo": config}), lambda line: console.print(line, markup=False)
        )
    if not reports:  # another process of the launcher writes it
        return
    report = reports["dpo"]
    if as_json:
        output.print_json([report])
    else:
        first, last = (report["losses"][i][1] for i in (0, -1))
        typer.echo(
            f"{count_of(report['pairs'], 'pair')}, loss {first:.3f} to {last:.3f}: {out / 'dpo'}"
        )
        output.say_next("candidates", "PROMPTS.jsonl", "OUT_DIR", "--policy", out / "dpo")
    output.exit_if([report["left_out"]])
