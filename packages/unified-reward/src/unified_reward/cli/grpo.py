"""``unified-reward grpo``: train a policy by the rewards of judges."""

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
from unified_reward.io.config import build_config, load_config, read_config
from unified_reward.io.text import read_lines
from unified_reward_client import RewardTerm


_STEPS = "steps: 100, accumulate: 1, warmup: 0.05, lora_rank: 16, save_every: 10"
_DEFAULTS = {
    kind: f"optim={{{_STEPS}, batch_size: {size}, lr: {lr}}}"
    for kind, size, lr in (("vlm", 32, 1e-4), ("diffusion", 8, 3e-4))
}
"""Default settings, before the overrides."""


def grpo(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", help="Rows of prompts.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    policy: Annotated[str, typer.Option(help="A VLM or a diffusers pipeline: folder or hub id.")],
    reward: Annotated[
        list[str],
        typer.Option(
            metavar="REWARD",
            help="A judge, win:JUDGE (win rates in the group), MODULE:FUNCTION, or a term such as "
            "'{judge: JUDGE, aspect: style, weight: 0.5}'; repeat it to combine several.",
        ),
    ],
    held_out_reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD", help="Measured on held-out prompts, never trained on; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default PROMPTS-grpo beside the file.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Train a policy by the rewards of judges (GRPO, NFT); resumes a stopped run."""
    with extra("train"):
        from unified_reward.recipes.run import run as run_recipe
        from unified_reward.recipes.stage import Recipe
        from unified_reward.train.grpo import PolicyGRPO
        from unified_reward.train.grpo_config import DiffusionGRPO
        from unified_reward.train.grpo_vlm import VLMGRPO

    next(read_lines(prompts), None)  # so that another kind of file is refused before a run begins
    given, rewards = overrides or [], tuple(map(_reward, reward))
    if policies.is_pipeline(checkpoint_path(policy)):
        diffusion = load_config(DiffusionGRPO, overrides=[_DEFAULTS["diffusion"], *given])
        config = PolicyGRPO(policy, prompts, diffusion, None, rewards, tuple(held_out_reward or ()))
    else:
        vlm = load_config(VLMGRPO, overrides=[_DEFAULTS["vlm"], *given])
        config = PolicyGRPO(policy, prompts, None, vlm, rewards, tuple(held_out_reward or ()))
    out = out or prompts.with_name(f"{prompts.stem}-grpo")
    console = Console(stderr=True)
    with redirect_stdout(sys.stderr):
        reports = run_recipe(
            Recipe(out, {"grpo": config}), lambda line: console.print(line, markup=False)
        )
    if not reports:  # another process of the launcher writes it
        return
    report = reports["grpo"]
    if as_json:
        output.print_json([report])
    else:
        known = [value for value in report["reward"] if value is not None]
        rise = f", reward {known[0]:.3f} to {known[-1]:.3f}" if known else ""
        typer.echo(f"{report['prompts']} prompts{rise}: {out / 'grpo'}")
    output.exit_if([report["left_out"]])


def _reward(text: str) -> str | RewardTerm:
    """A reference, or a term in YAML."""
    if not text.startswith("{"):
        return text
    return build_config(RewardTerm, read_config(None, [f"--reward={text}"])["--reward"], "--reward")
