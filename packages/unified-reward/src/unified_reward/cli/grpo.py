"""``unified-reward grpo``: train a policy by the rewards of judges."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unified_reward import policies
from unified_reward.cli import options, output
from unified_reward.core.extensions import checkpoint_path, extra
from unified_reward.core.words import count_of
from unified_reward.io.config import build_config, read_config
from unified_reward.io.text import read_lines


_STEPS = "steps: 100, accumulate: 1, warmup: 0.05, lora_rank: 16, save_every: 10"
_DEFAULTS = {
    kind: f"optim={{{_STEPS}, batch_size: {size}, lr: {lr}}}"
    for kind, size, lr in (("vlm", 32, 1e-4), ("diffusion", 8, 3e-4))
}
"""Default settings, before the overrides."""


def grpo(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Rows of prompts, or a .txt.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Options, such as optim.steps=300 group=16."),
    ] = None,
    *,
    policy: options.PolicyOption,
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
    """Train a policy by the rewards of judges (GRPO, NFT, DRaFT); resumes a stopped run."""
    next(read_lines(prompts), None)  # so that another kind of file is refused before a run begins
    with extra("train"):
        from unified_reward.recipes.run import run as run_recipe
        from unified_reward.recipes.stage import Recipe
        from unified_reward.train.grpo import PolicyGRPO

    kind = "diffusion" if policies.is_pipeline(checkpoint_path(policy)) else "vlm"
    given = [each if each.startswith("judges.") else f"{kind}.{each}" for each in overrides or ()]
    data = read_config(None, [f"{kind}.{_DEFAULTS[kind]}", *given])
    data |= {"policy": policy, "prompts": str(prompts), "rewards": [*map(_reward, reward)]}
    data |= {"held_out_rewards": held_out_reward or []}
    config = build_config(PolicyGRPO, data, "the options")
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
        typer.echo(f"{count_of(report['prompts'], 'prompt')}{rise}: {out / 'grpo'}")
        output.say_next(
            *("candidates", "PROMPTS.jsonl", "OUT_DIR", "--policy", out / "grpo" / "policy")
        )
    output.exit_if([report["left_out"]])


def _reward(text: str) -> Any:
    """A reference, or the keys and values of a term in YAML."""
    return read_config(None, [f"--reward={text}"])["--reward"] if text.startswith("{") else text
