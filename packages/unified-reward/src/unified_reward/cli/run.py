"""``unified-reward run``: the stages of a recipe."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer
import yaml
from rich.console import Console

from unified_reward.cli import completions, output
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extra
from unified_reward.io.config import as_data
from unified_reward.recipes.installed import find_recipe, installed_recipes


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="YAML file, or the name of an installed recipe: "
            f"{', '.join(sorted(installed_recipes()))}.",
            autocompletion=completions.recipes,
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything but the weights; print the sizes.")
    ] = False,
    launch: Annotated[
        str,
        typer.Option(help="For a dry run: accelerate's YAML, or fsdp, fsdp_llava, zero2, zero3."),
    ] = "",
) -> None:
    """Run the stages of a recipe; skips those that are done."""
    if launch and not dry_run:
        raise ConfigError(
            "--launch goes with --dry-run; to train on several devices, use accelerate launch"
        )
    with extra("train"):
        from unified_reward.recipes import run as recipes

    loaded = recipes.load_recipe(find_recipe(recipe), overrides or [])
    if dry_run:
        report = as_data(recipes.dry_run(loaded, launch))
        typer.echo(yaml.safe_dump(report, sort_keys=False), nl=False)
        return
    console = Console(stderr=True)
    # Trainers print their progress; standard output is for results.
    with redirect_stdout(sys.stderr):
        recipes.run(loaded, lambda line: console.print(line, markup=False))
    if "judge" in loaded.stages:
        output.say_next("score", "FILE", "--prompt", "TEXT", "--judge", loaded.out / "judge")
