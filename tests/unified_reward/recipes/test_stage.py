"""A stage is skipped while its inputs are the same, and never deletes what it cannot know."""

import json

import pytest

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.lock import locked
from unified_reward.judges.card import Card
from unified_reward.recipes.run import run
from unified_reward.recipes.stage import Recipe, Run
from unified_reward.recipes.stages import BenchConfig


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def stage(tmp_path, base):
    """Run a stage on the base, and return whether it worked."""

    def work(out="run", **config):
        worked = []
        product = tmp_path / out / "toy" / "made"

        def make():
            worked.append(1)
            product.write_text("made")
            return {"n": 1}

        state = Run(Recipe(tmp_path / out, {}), lambda _: None)
        state.stage("toy", config, [base, "a name", tmp_path / "rows.jsonl"], product, make)
        return bool(worked)

    return work


def test_it_is_done_again_where_a_file_of_a_base_changed_and_not_for_its_records(stage, base):
    assert stage()
    assert not stage()
    for name in ("report.json", "started", "config.yaml", "README.md"):
        (base / name).write_text("written later")
    Card("native").write(base)
    assert not stage()
    (base / "config.json").write_text('{"layers": 2}')
    assert stage()
    assert stage(option=1)
    assert not stage(option=1)


def test_it_is_done_again_where_a_picture_of_its_rows_changed(stage, tmp_path):
    part = {"image": "a.png"}
    row = {"task": "image_generation", "prompt": "x", "candidates": [part, part]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n{broken\n")
    for content in (b"one", b"two"):
        (tmp_path / "a.png").write_bytes(content)
        assert stage()
        assert not stage()


def test_what_other_options_made_is_replaced_and_reported(tmp_path):
    log = []
    state, folder = Run(Recipe(tmp_path, {}), log.append), tmp_path / "toy"
    for option in (0, 0, 1):
        state.stage("toy", {"option": option}, [], folder, dict)
    replaced = f"{folder} is replaced: it was made with other options or inputs"
    begun = f"toy: {folder}"
    assert log == [begun, f"toy: already done, in {folder}", begun, replaced]


@pytest.mark.parametrize("is_done", [True, False])
def test_what_an_earlier_version_made_is_refused_and_kept(is_done, stage, tmp_path):
    stage()
    folder = tmp_path / "run" / "toy"
    file = folder / "report.json"
    if is_done:
        file.write_text(json.dumps({"hash": "0123abcd"}))
    else:
        file.unlink()
        (folder / "started").write_text("0123abcd")
    with pytest.raises(
        ConfigError, match=r"toy was made by an earlier version.*another folder by out="
    ):
        stage()
    assert (folder / "made").read_text() == "made"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(stage, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DataError, match="toy cannot be written: "):
        stage()


def test_two_runs_of_a_recipe_do_not_share_a_folder(tmp_path):
    recipe = Recipe(tmp_path / "run", {"bench": BenchConfig("microworld", "scripted:first")})
    with locked(recipe.out / "report.json"), pytest.raises(ConfigError, match="by another run"):
        run(recipe)
