"""Comparison of two evaluations: changes derived by hand, and runs that cannot be compared."""

import json
import math

import pytest

from tests.unified_reward.evaluate.files import picture
from tests.unified_reward.evaluate.judges import Aspects, Numbers, answers
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Task
from unified_reward.evaluate.diff import compare_evaluations
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.run import evaluate_models
from unified_reward.judges.registry import open_judge


T_2 = 4.302652729911275


@pytest.fixture
def run(tmp_path):
    def evaluate(name, values, **judges):
        judges = judges or {"r": Numbers()}
        evaluate_models(answers(values), judges, out=tmp_path / name)
        return tmp_path / name

    return evaluate


def test_aspects_of_a_judge_are_compared_each_by_its_own_values(run):
    folders = [
        run(name, {"a": [1], "b": [size]}, r=Aspects(("score",)))
        for name, size in (("x", 3), ("y", 10))
    ]
    changes = compare_evaluations(*folders)["models"]["b"]
    assert {name: each["mean"]["change"] for name, each in changes.items()} == {
        "r.length": 1,
        "r.size": 7,
    }


def test_changes_are_paired_by_prompt(run):
    """b rises by 1, 0 and 2 for the prompts of both; its lead by as much, since a stays."""
    first = run("a", {"a": [1, 2, 3, 9], "b": [2, 2, 2, 9], "old": [1, 1, 1, 1]})
    second = run("b", {"a": [1, 2, 3], "b": [3, 2, 4], "new": [1, 1, 1]})
    report = compare_evaluations(first, second)
    changes = report["models"]["b"]["r"]
    half = T_2 / math.sqrt(3)
    assert changes["mean"] == {
        "a": 2,
        "b": 3,
        "change": 1,
        "n": 3,
        "ci95": pytest.approx([1 - half, 1 + half]),
    }
    assert changes["difference"]["change"] == 1
    assert changes["difference"]["a"] == 0
    # It wins 0.8, 0.5 and 0.2 in the first run, and 0.8, 0.5 and 0.8 in the second.
    assert changes["win_rate"]["change"] == pytest.approx(0.2)
    assert report["models"]["a"]["r"]["mean"]["change"] == 0
    assert report["models"]["a"]["r"]["win_rate"] is None
    assert (report["baseline"], report["prompts"], report["rewards"]) == ("a", 3, ["r"])
    assert report["only_a"] == {"models": ["old"], "prompts": ["p3"], "rewards": []}
    assert report["only_b"] == {"models": ["new"], "prompts": [], "rewards": []}


def test_shares_of_wins_are_against_the_models_of_both_runs(run):
    """Against a, b always wins 0.8; a model that only one run has would change its share."""
    judge = Numbers(("compare",))
    first = run("a", {"a": [1, 1], "b": [2, 2], "strong": [9, 9]}, r=judge)
    second = run("b", {"a": [1, 1], "b": [2, 2]}, r=judge)
    assert compare_evaluations(first, second)["models"]["b"]["r"]["mean"]["change"] == 0


def test_prompts_about_other_media_are_changed(tmp_path):
    """The text of both edits is that of the other run; the source image of one is not."""
    runs = []
    for name, shades in (("a", (1, 2)), ("b", (1, 3))):
        sources = [str(picture(tmp_path / f"{name}{i}.png", s)) for i, s in enumerate(shades)]
        prompts = {
            f"p{i}": Example(Task.IMAGE_EDITING, "redder", id=f"p{i}", context=(Image(source),))
            for i, source in enumerate(sources)
        }
        outputs = {model: {key: (Image(sources[0]),) for key in prompts} for model in ("x", "y")}
        judges = {"r": open_judge("scripted:tie")}
        evaluate_models(ModelOutputs(prompts, outputs), judges, out=tmp_path / name)
        runs.append(tmp_path / name)
    report = compare_evaluations(*runs)
    assert (report["prompts"], report["changed_prompts"]) == (1, ["p1"])


def test_win_rates_of_scores_and_of_comparisons_are_not_compared(run, tmp_path):
    """The judge is the same, but a win of scores is 1 and one of comparisons 0.8."""
    values = {"a": [1, 2], "b": [2, 3]}
    first = run("a", values)
    evaluate_models(answers(values), {"r": Numbers()}, by="score", out=tmp_path / "b")
    report = compare_evaluations(first, tmp_path / "b")
    assert report["models"]["b"]["r"]["mean"]["change"] == 0
    assert report["models"]["b"]["r"]["win_rate"] is None
    assert list(report["other_judges"]) == ["r: win_rate"]
    # Comparisons of the first run stay in its folder, and are not of the report any more.
    evaluate_models(answers(values), {"r": Numbers()}, by="score", out=first)
    changes = compare_evaluations(first, tmp_path / "b")["models"]["b"]["r"]
    assert (changes["win_rate"]["a"], changes["win_rate"]["change"]) == (1, 0)


def test_a_reward_of_another_judge_is_left_out_by_name(run):
    values = {"a": [1, 2], "b": [2, 3]}
    first = run("a", values, r=Numbers(), s=open_judge("scripted:tie"))
    second = run("b", values, r=Numbers(), s=open_judge("scripted:first"))
    report = compare_evaluations(first, second)
    assert report["rewards"] == ["r"]
    assert report["other_judges"] == {"s": "judge is 'scripted:tie' in A and 'scripted:first' in B"}
    third = run("c", values, r=Numbers(("score",)), s=open_judge("scripted:second"))
    with pytest.raises(ConfigError, match=r"judged differently: s: judge is"):
        compare_evaluations(run("d", values, s=open_judge("scripted:tie")), third)


def test_a_judge_whose_files_changed_under_its_name_is_another(run, tmp_path):
    values = {"a": [1], "b": [2]}
    first, second = run("a", values), run("b", values)
    for folder, digest in ((first, "1"), (second, "2")):
        path = folder / "verdicts" / "r.jsonl.config.json"
        config = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(config | {"files": {"w.safetensors": digest}}), "utf-8")
    with pytest.raises(ConfigError, match=r"r: numbers has another w.safetensors in B"):
        compare_evaluations(first, second)


def test_two_tables_are_compared(run, tmp_path):
    """A table holds the verdicts of a judge that is not known."""
    for name, value in (("t", 1), ("u", 3)):
        rows = [f"{model}/p{i}/0,{value}" for model in "ab" for i in range(2)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,value", *rows]), "utf-8")
    values = {"a": [1, 2], "b": [2, 3]}
    first, second = (
        run(name, values, r=open_judge(f"table:{tmp_path}/{name}.csv")) for name in "tu"
    )
    assert compare_evaluations(first, second)["models"]["b"]["r"]["mean"]["change"] == 2


def test_runs_with_nothing_in_common_are_refused(run):
    first = run("a", {"a": [1], "b": [2]})
    with pytest.raises(ConfigError, match="share no model: one has a, b, the other c"):
        compare_evaluations(first, run("b", {"c": [1]}))
    with pytest.raises(ConfigError, match="share no reward: one has r, the other s"):
        compare_evaluations(first, run("c", {"a": [1]}, s=Numbers()))


def test_a_folder_of_something_else_is_refused(run, tmp_path):
    first = run("a", {"a": [1]})
    (tmp_path / "report.json").write_text('{"name": "fetv"}', "utf-8")
    with pytest.raises(DataError, match=r"was not written by evaluate --out: report.json is not"):
        compare_evaluations(first, tmp_path)
    with pytest.raises(DataError, match="gone was not written by evaluate --out"):
        compare_evaluations(tmp_path / "gone", first)
