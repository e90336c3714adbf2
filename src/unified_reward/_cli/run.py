"""``unified-reward run``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified_reward._config import load_config
from unified_reward.types import ConfigError


def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
) -> None:
    """Run a recipe; stages that are done already are skipped."""
    path = Path(recipe)
    shipped = Path(str(resources.files("unified_reward") / "recipes"))
    if not path.is_file():
        path = shipped / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in shipped.glob("*.yaml")))
        raise ConfigError(f"{recipe} is neither a file nor a shipped recipe: {names}")
    from unified_reward.pipeline import Recipe
    from unified_reward.pipeline import run as run_recipe

    console = Console(stderr=True)
    run_recipe(load_config(Recipe, path, overrides or []), console.print)
