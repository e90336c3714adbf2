"""``unified-reward run``: the stages of a recipe, each skipped when it is done already.

A stage is done when its ``report.json`` carries the hash of its configuration and of its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions
from unified_reward.io.atomic import write_json
from unified_reward.io.config import build_config, read_config
from unified_reward.io.lock import locked
from unified_reward.recipes.stage import BUILT_IN, Log, Recipe, Run, find_stage


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; its stages run in the order in which the file names them.

    Args:
        path: A YAML file with ``out`` and the options of each stage.
        overrides: ``stage.option=value``, the value in YAML; later ones win.

    Raises:
        ConfigError: No such file, no YAML, an unknown stage or option, or a wrong value.
    """
    data = read_config(path, overrides)
    if "out" not in data:
        raise ConfigError(f"{path}: out, the folder of the run, is missing")
    stages = {
        name: build_config(find_stage(name).config, options, f"{path}: {name}")
        for name, options in data.items()
        if name != "out" and options is not None
    }
    return Recipe(build_config(Path, data["out"], f"{path}: out"), stages)


def run(recipe: Recipe, log: Log = lambda _: None) -> dict[str, Any]:
    """Run the stages of a recipe that are not done, and write ``report.json`` beside them.

    Under a launcher of several processes all of them train, and the first does the rest.

    Args:
        recipe: The stages and their folder.
        log: Called with a line for people before and after every stage.

    Returns:
        The report: every stage's own, and figures such as ``judge.<task>.<form>`` with value,
        ci95 and n; empty in every process but the first.

    Raises:
        ConfigError: The recipe names no stage, a stage cannot work in it, or another run is
            writing to its folder.
    """
    if not recipe.stages:
        known = ", ".join([*BUILT_IN, *extensions("stages")])
        raise ConfigError(f"the recipe names no stage; there are {known}")
    for name, config in recipe.stages.items():
        find_stage(name).check(config, recipe)
    state = Run(recipe, log)
    # Without a GPU, accelerate sees a launcher's other processes only if it is told so.
    is_first = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    file = recipe.out / "report.json"
    with locked(file) if is_first else nullcontext():
        for name, config in recipe.stages.items():
            stage = find_stage(name)
            if is_first or stage.every_process:
                stage.run(config, state)
        if not is_first:
            return {}
        report = {**state.reports, **state.figures}
        write_json(file, report)
    return report


def dry_run(recipe: Recipe, launch: str = "") -> Any:
    """Build everything of the first stage that trains, except its weights.

    Args:
        recipe: Its other stages are checked as far as their options go.
        launch: A configuration of accelerate; empty without a launcher.

    Raises:
        ConfigError: No stage of the recipe has a dry run, or something does not fit.
    """
    for name, config in recipe.stages.items():
        rehearse = find_stage(name).dry_run
        if rehearse:
            return rehearse(config, launch)
    raise ConfigError("a dry run needs a judge, dpo or grpo stage, and the recipe has none")
