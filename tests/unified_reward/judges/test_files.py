"""Files and wordings that a judge is made of have fingerprints, by every kind of reference."""

import json
import shutil

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.judges import files as judge_files_module
from unified_reward.judges.card import Card
from unified_reward.judges.files import checkpoint_files, judge_files
from unified_reward.judges.registry import JudgeOptions
from unified_reward.prompts.packs import Wording


@pytest.fixture
def folder(tmp_path):
    """A folder with a card; nothing in it is loaded."""
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"weights")
    Card("native").write(tmp_path / "judge")
    return tmp_path / "judge"


def files_of(reference, **options):
    return judge_files(str(reference), JudgeOptions(**options))


def changes(before, after):
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_of_a_folder_the_files_and_the_wordings_of_its_family_count(folder):
    before = files_of(folder)
    assert set(before) == {
        "model.safetensors",
        "unified_reward.json",
        "the wording of family native",
    }
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert changes(before, files_of(folder)) == {"model.safetensors"}
    assert "the wording of family think" in files_of(folder, family="think")
    moved = shutil.copytree(folder, folder.with_name("moved"))
    assert files_of(moved) == files_of(folder)


def test_a_name_that_is_registered_stands_for_its_folder():
    assert files_of("tiny_judge") == files_of(checkpoint_path("tiny_judge"))


def test_of_an_adapter_the_base_counts_too(folder):
    base = shutil.copytree(folder, folder.with_name("base"))
    config = {"base_model_name_or_path": "../base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    before = files_of(folder)
    (base / "model.safetensors").write_bytes(b"other weights")
    assert changes(before, files_of(folder)) == {"model.safetensors of the base"}


def test_a_table_and_a_file_of_weights_count_by_content(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("id,winner\n1,first\n")
    before = files_of(f"table:{table}")
    table.write_text("id,winner\n1,second\n")
    assert changes(before, files_of(f"table:{table}")) == {str(table)}
    assert checkpoint_files(table).keys() == {"table.csv"}


def test_a_scorer_and_a_checklist_count_what_they_refer_to(folder, monkeypatch):
    assert set(files_of(f"pickscore:{folder}")) == {"model.safetensors", "unified_reward.json"}
    known = {"VISIONREWARD-IMAGE": Wording("VISIONREWARD-IMAGE", None, None, "text", "hash")}
    monkeypatch.setattr(judge_files_module, "installed_wordings", lambda: known)
    assert files_of(f"checklist-image:{folder}") == {
        "the wording VISIONREWARD-IMAGE": "hash",
        **files_of(folder),
    }


def test_servers_and_controls_count_by_their_wordings_alone():
    for reference in ("http://localhost:1/v1", "scripted:first"):
        assert set(files_of(reference)) == {"the wording of family native"}


def test_of_an_installed_judge_the_path_in_its_reference_counts(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(judge_files_module, "kind_of", lambda _: "installed")
    weights = str(folder / "model.safetensors")
    assert files_of("mine") == files_of("mine:") == files_of("mine:large") == {}
    assert set(files_of(f"mine:{folder}")) == {"model.safetensors", "unified_reward.json"}
    assert set(files_of(f"mine:{weights}")) == {weights}


def test_a_hub_id_that_is_not_in_the_cache_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert files_of("org/name")["the commit of org/name"] == ""


def test_another_wording_of_a_family_is_a_change(monkeypatch):
    before = files_of("scripted:first")
    template = judge_files_module.prompts.template
    reworded = lambda *key: str(template(*key)).replace("caption", "text")  # noqa: E731
    monkeypatch.setattr(judge_files_module.prompts, "template", reworded)
    assert changes(before, files_of("scripted:first")) == {"the wording of family native"}


def test_a_reference_that_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match="there is no judge 'nobody'"):
        files_of("nobody")


def test_the_options_that_decide_verdicts_are_settings_and_no_key_is():
    options = JudgeOptions(family="think", device="cpu", batch_size=3, api_key="secret", votes=2)
    assert options.settings() == {"judge.family": "think", "judge.votes": 2}
