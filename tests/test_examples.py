"""The scripts of ``examples/`` run, and what each shows is so."""

import ast
import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import unified_reward as ur
from tests.test_vocabulary import problems
from unified_reward.policies import Denoising
from unified_reward.recipes.installed import find_recipe


ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run an example in an empty folder; its variables, and the lines that it prints."""

    def run_example(name):
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out")])
        variables = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return variables, capfd.readouterr().out.splitlines()

    return run_example


def lines_of(path):
    return path.read_text("utf-8").splitlines()


def test_a_folder_is_scored_best_first_and_a_broken_file_has_no_score(run, tmp_path):
    run("score_a_folder")
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    *scored, broken = rows
    values = [float(row["score"]) for row in scored]
    assert scored[0]["file"] == "right.png"
    assert scored[-1]["file"] == "other_everything.png"
    assert values == sorted(values, reverse=True)
    assert (broken["file"], broken["score"]) == ("broken.png", "")
    assert "not an image" in broken["reason"]


def test_the_better_model_is_ahead_by_more_than_its_interval(run, tmp_path):
    variables, lines = run("which_model_is_better")
    low, high = variables["paired"]["ci95"]
    assert 0 < low < variables["paired"]["difference"] < high
    assert variables["paired"]["n"] == variables["PROMPTS"]
    assert "better" in lines
    assert "after" in (tmp_path / "out" / "evaluation" / "page.html").read_text("utf-8")


def test_a_judge_learns_a_preference_from_votes(run):
    variables, lines = run("train_a_judge_on_votes")
    assert (len(variables["votes"]), len(variables["records"])) == (144, 48)
    before, after = (
        tuple(map(int, re.findall(r"(\d+)%", line)))
        for line in lines
        if line.startswith(("before", "after"))
    )
    assert before[0] < 50
    assert after[1] > 50  # the interval is above chance
    assert after[1] <= after[0] <= after[2]


def test_trl_trains_by_the_rewards_of_the_judge(run, tmp_path):
    variables, lines = run("reward_in_trl")
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == variables["STEPS"]
    logs, images = variables["trainer"]._logs, variables["images"]
    rewards = [*logs["rewards"]["unified_reward"]]
    assert len(rewards) >= variables["GENERATIONS"] * len(images)
    assert min(rewards) < max(rewards)
    judge = ur.open_judge("tiny_judge")
    for turns, reward in zip(logs["completion"], rewards, strict=True):
        answers = [turns[-1]["content"]] * len(images)
        verdicts = judge.score(variables["QUESTION"], images=images, answers=answers)
        assert min(abs(each.score.value - reward) for each in verdicts) < 1e-3
    assert (tmp_path / "out" / "policy" / "model.safetensors").exists()


def test_both_strategies_make_a_pair_of_every_prompt(run, tmp_path):
    variables, _ = run("build_pairs")
    n = len(variables["PROMPTS"])
    for strategy in ("rank+sift", "adaptive"):
        rows = [json.loads(line) for line in lines_of(tmp_path / "out" / f"{strategy}.jsonl")]
        assert [row["status"] for row in rows] == ["kept"] * n
        assert all(row["chosen_score"] > row["rejected_score"] for row in rows)
        assert {row["strategy"] for row in rows} == {strategy}
        assert (tmp_path / "out" / f"{strategy}.parquet").stat().st_size > 0
    assert variables["counts"]["written"] == n


def test_alignment_moves_the_policy_away_from_the_reference(run, tmp_path):
    variables, _ = run("align_with_lora")
    losses = [loss for _, loss in variables["report"]["losses"]]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] != losses[0]
    assert variables["report"]["pairs"] == len(variables["PROMPTS"])
    sheet = Image.open(tmp_path / "out" / "before_and_after.png")
    top, bottom = (
        sheet.crop((0, y, sheet.width, y + sheet.height // 2)) for y in (0, sheet.height // 2)
    )
    assert top.tobytes() != bottom.tobytes()
    assert sheet.height == 2 * variables["SIDE"]
    assert (
        variables["picture"].size == (variables["SIDE"],) * 2
    )  # whole, whatever the policy's size
    assert [*(tmp_path / "out" / "aligned" / "adapter").glob("*.safetensors")]


def test_controls_show_flips_with_the_order_and_unreadable_answers(run):
    variables, lines = run("evaluate_a_judge")
    reports = variables["reports"]
    for name, report in reports.items():
        accuracy = report["metrics"]["pair_accuracy"]
        low, high = accuracy["ci95"]
        assert low <= accuracy["value"] <= high, name
    assert reports["scripted:first"]["metrics"]["consistency"]["value"] == 0
    silent = reports["scripted:silent"]
    assert silent["n_unparsed"] == silent["n"] > 0
    assert reports["tiny_judge"]["n_unparsed"] == 0
    assert any("100% of" in line for line in lines)


def test_a_failing_reward_is_none_with_its_reason(run):
    _, lines = run("serve_and_ask")
    alone, both = lines[1:4], lines[5:8]
    assert [line.split()[1] for line in alone] == ["+1.00", "-1.00", "None"]
    assert "broken.png" in alone[2]
    assert "star: " in alone[2]
    assert [line.split()[1] for line in both] == ["None"] * 3
    assert all("silent: " in line for line in both)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_to_change_for_an_8b_judge(path):
    text = path.read_text("utf-8")
    assert 20 <= len(text.splitlines()) <= 60
    _, empty, judge, real = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert not empty
    assert re.match(r"8B judge: \S", judge)
    assert re.match(r"Real \w+: \S", real)
    assert problems(text) == []


def constants_of(text):
    """Names in capitals that a script assigns."""
    names = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name))
    return {
        node.id for node in names if isinstance(node.ctx, ast.Store) and node.id == node.id.upper()
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_the_first_lines_say_to_change_is_in_the_script(path):
    text = path.read_text("utf-8")
    head = ast.get_docstring(ast.parse(text)) or ""
    named = re.findall(r"([A-Z]{2,}(?:, [A-Z]{2,})*)(?:\[[^\]]*\])? = ", head)
    assert named or path.name == "reward_in_trl.py"
    assert {name for names in named for name in names.split(", ")} <= constants_of(text)


def test_a_distilled_pipeline_is_told_its_steps_and_guidance():
    head = ast.get_docstring(ast.parse((EXAMPLES / "build_pairs.py").read_text("utf-8"))) or ""
    options = ast.literal_eval(head[head.index("{") : head.index("}") + 1])
    assert Denoising(**options) == Denoising(steps=1, guidance=0)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_recipes_that_an_example_names_are_installed(path):
    head = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    for name in re.findall(r"recipe (\w+)", head):
        assert find_recipe(name).exists()


def test_the_readme_lists_every_example_with_its_command():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \| .+ \| `python examples/\1` \|$", text, re.M)
    assert sorted(listed) == [path.name for path in SCRIPTS]
    assert len(listed) == 8


def test_examples_use_public_names():
    """They import what the documentation names; a name with an underscore is private."""
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unified_"):
                names = [*(node.module or "").split("."), *(each.name for each in node.names)]
                assert not [name for name in names if name.startswith("_")], path.name
