"""``templates import``: the result of each wording, and the exit code."""

import json

import pytest

from tests.unified_reward.prompts.clones import as_code, made_prompt, write_clone
from unified_reward.prompts import packs


TEXT = "Which picture is [⟪prompt⟫]?"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Two published prompts in made-up words, and a home of their own."""
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path / "home"))
    rows = {name: made_prompt(TEXT, name=name) for name in ("Q-IG-PAIR", "T-IG-PAIR")}
    monkeypatch.setattr(packs, "published_prompts", lambda: rows)
    monkeypatch.setattr(packs, "_repositories", lambda: ("CodeGoat24/UnifiedReward",))


@pytest.mark.usefixtures("table")
def test_a_whole_import_ends_with_0_and_names_the_pack(cli, tmp_path):
    clone = write_clone(tmp_path, dict.fromkeys(packs.published_prompts(), as_code(TEXT)))
    code, out, _ = cli("templates", "import", clone)
    assert code == 0
    head, row, *_ = out.splitlines()
    assert head.split() == ["wording", "file", "status"]
    assert row.split() == ["Q-IG-PAIR", "scripts/Q-IG-PAIR.py", "verified"]
    assert out.count("verified") == 2
    assert out.splitlines()[-1] == str(tmp_path / "home" / "packs" / "unifiedreward.json")


@pytest.mark.usefixtures("table")
def test_a_part_is_kept_and_ends_with_1(cli, tmp_path):
    changed = as_code(TEXT.replace("Which", "What"))
    clone = write_clone(tmp_path, {"Q-IG-PAIR": as_code(TEXT), "T-IG-PAIR": changed})
    code, out, _ = cli("templates", "import", clone, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(one["name"], one["status"]) for one in rows] == [
        ("Q-IG-PAIR", "verified"),
        ("T-IG-PAIR", "changed"),
    ]
    assert list(packs.installed_wordings()) == ["Q-IG-PAIR"]


@pytest.mark.usefixtures("table")
def test_a_folder_that_is_no_clone_ends_with_2_and_leaves_no_pack(cli, tmp_path):
    code, _, message = cli("templates", "import", tmp_path)
    assert code == 2
    assert "give the root of a clone of CodeGoat24/UnifiedReward" in message
    assert packs.installed_wordings() == {}
