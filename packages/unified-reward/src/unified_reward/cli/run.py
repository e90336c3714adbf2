"""``unified-reward run``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from unified_reward.core.errors import ConfigError
from unified_reward.io.config import as_data, load_config


def run(
    recipe: Annotated[str, typer.Argument(help="YAML file, or the name of an installed recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything but the weights; print sizes.")
    ] = False,
    launch: Annotated[
        str,
        typer.Option(
            help="Launch configuration that a dry run checks: accelerate's YAML, or fsdp, "
            "fsdp_llava, zero2 or zero3."
        ),
    ] = "",
) -> None:
    """Run the stages of a recipe; skips those that are done."""
    if launch and not dry_run:
        raise ConfigError(
            "--launch goes with --dry-run; to train on several devices, use accelerate launch"
        )
    path = Path(recipe)
    shipped = Path(str(resources.files("unified_reward") / "recipes"))
    if not path.is_file():
        path = shipped / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in shipped.glob("*.yaml")))
        raise ConfigError(f"{recipe} is neither a file nor a shipped recipe: {names}")
    from unified_reward.recipes.run import Recipe, rehearse
    from unified_reward.recipes.run import run as run_recipe

    config = load_config(Recipe, path, overrides or [])
    if dry_run:
        typer.echo(yaml.safe_dump(as_data(rehearse(config, launch)), sort_keys=False), nl=False)
        return
    run_recipe(config, Console(stderr=True).print)
