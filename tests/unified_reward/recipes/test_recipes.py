"""Every shipped recipe describes a run, and its judge can be built."""

from importlib import resources
from pathlib import Path

import pytest
import yaml

from unified_reward.core.errors import ConfigError
from unified_reward.recipes.installed import find_recipe
from unified_reward.recipes.run import dry_run, load_recipe
from unified_reward.train.launch import read_launch_config


FOLDER = Path(str(resources.files("unified_reward.recipes")))
LABORATORY = Path(str(resources.files("unified_reward_lab.recipes")))
RECIPES = sorted([*FOLDER.glob("*.yaml"), *LABORATORY.glob("*.yaml")])
LAUNCHED = {
    "llava_onevision_7b": ("fsdp_llava", "zero2", "zero3"),
    "qwen2_5_vl_7b": ("fsdp", "zero2", "zero3"),
    "qwen3_vl_8b": ("fsdp", "zero2", "zero3"),
    "qwen3_5_9b": ("fsdp", "zero2", "zero3"),
}


def load(name, *overrides):
    return load_recipe(find_recipe(name), overrides)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_short_says_how_it_is_launched_and_writes_to_its_own_folder(file):
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 60
    assert f"run {file.stem}" in text.partition("\nout:")[0]
    assert load(file.stem).out == Path("runs") / file.stem


@pytest.mark.parametrize(
    "name", [file.stem for file in RECIPES if "judge" in yaml.safe_load(file.read_text("utf-8"))]
)
def test_the_judge_of_a_recipe_can_be_built_and_its_turns_fit(name):
    recipe = load(name)
    report = dry_run(recipe, LAUNCHED.get(name, ("",))[0])
    assert report.trained == sum(one["parameters"] for one in report.groups) > 0
    too_long = [line for line in report.lacking if "lower frames" in line]
    # LLaVA's processor cuts every picture of a clip into tiles, more than its context holds.
    assert bool(too_long) == (max(report.tokens.values()) > 32_768)
    assert report.per_step["turns"] == {"llava_onevision_7b": 256}.get(
        name, 128 if name in LAUNCHED else 32
    )


def test_the_first_phase_of_a_judge_that_thinks_can_be_built():
    report = dry_run(load("think_qwen2_5_vl_7b"), "zero3")
    assert report.per_step["turns"] == 256
    assert report.trained == report.parameters


def test_a_misspelt_recipe_is_told_the_nearest_and_all_others():
    with pytest.raises(ConfigError, match=r"did you mean quickstart$") as raised:
        find_recipe("quickstar")
    assert all(file.stem in str(raised.value) for file in RECIPES)
    with pytest.raises(ConfigError, match=r"tiny_vlm$"):
        find_recipe("zzz")


def test_the_tiny_base_cannot_be_rehearsed():
    with pytest.raises(ConfigError, match="needs a judge, dpo or grpo stage, and the recipe"):
        dry_run(load("tiny_base"))


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_launcher_of_a_recipe_starts_the_processes_it_is_for(name):
    recipe = load(name)
    for launch in LAUNCHED[name]:
        read_launch_config(launch).check_batch(
            recipe.stages["judge"].processes, recipe.stages["judge"].optim
        )
    assert {one.stem for one in (FOLDER / "launch").glob("*.yaml")} == {
        launch for launches in LAUNCHED.values() for launch in launches
    }
