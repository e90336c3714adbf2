"""Recipes that come with this distribution and with others; imports no trainer."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module, resources
from pathlib import Path

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, missing_hint
from unified_reward.core.paths import is_file


def installed_recipes() -> dict[str, Path]:
    """YAML files of the installed recipes by name."""
    packages = ["unified_reward.recipes", *(p.value for p in extensions("recipes").values())]
    folders = [Path(str(resources.files(import_module(package)))) for package in packages]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def find_recipe(reference: str) -> Path:
    """The YAML file of a recipe, by its path or by the name of one that is installed.

    Raises:
        ConfigError: It is neither; lists the installed ones.
    """
    path = Path(reference)
    if is_file(path):
        return path
    installed = installed_recipes()
    if reference not in installed:
        near = get_close_matches(reference, installed, n=1)
        hint = f"; did you mean {near[0]}" if near else missing_hint(reference)
        raise ConfigError(
            f"{reference} is neither a file nor an installed recipe: "
            f"{', '.join(sorted(installed))}{hint}"
        )
    return installed[reference]
