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
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path, extra
from unified_reward.io.config import build_config, load_config, read_config
from unified_reward.io.text import read_lines
from unified_reward_client import RewardTerm


_DEFAULTS = (
    "optim={steps: 100, batch_size: 8, accumulate: 1, lr: 3e-4, warmup: 0.05, lora_rank: 16, "
    "save_every: 10}"
)
"""Default settings, before the overrides."""


def grpo(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", help="Rows of prompts.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    policy: Annotated[str, typer.Option(help="A diffusers pipeline: folder or hub id.")],
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
    """Train a pipeline by the rewards of judges (GRPO, NFT); resumes a stopped run."""
    with extra("train"):
        from unified_reward.recipes.run import run as run_recipe
        from unified_reward.recipes.stage import Recipe
        from unified_reward.train.grpo import PolicyGRPO
        from unified_reward.train.grpo_config import DiffusionGRPO

    next(read_lines(prompts), None)  # so that another kind of file is refused before a run begins
    if not policies.is_pipeline(checkpoint_path(policy)):
        raise ConfigError(f"{policy} is no diffusers pipeline; grpo trains only these")
    diffusion = load_config(DiffusionGRPO, overrides=[_DEFAULTS, *(overrides or [])])
    rewards = tuple(map(_reward, reward))
    config = PolicyGRPO(policy, prompts, diffusion, rewards, tuple(held_out_reward or ()))
    out = out or prompts.with_name(f"{prompts.stem}-grpo")
    console = Console(stderr=True)
    with redirect_stdout(sys.stderr):
        reports = run_recipe(
            Recipe(out, {"grpo": config}), lambda line: console.print(line, markup=False)
        )
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
