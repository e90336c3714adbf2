"""Evaluations: figures derived by hand, runs that are stopped, grow or change, and budgets."""

import json
import math
from dataclasses import replace

import pytest

from tests.unified_reward.evaluate.judges import Aspects, Numbers, Readings, answers
from unified_reward.core.errors import ConfigError
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.run import evaluate_models, verdicts_path
from unified_reward.io.vote_rows import Vote
from unified_reward.judges.registry import open_judge


T_2 = 4.302652729911275
"""Quantile 0.975 of Student's t with two degrees of freedom."""


@pytest.fixture
def chunks_of_four(monkeypatch):
    monkeypatch.setattr("unified_reward.judges.bulk.CHUNK", 4)


def test_the_figures_are_those_derived_by_hand(tmp_path):
    """Scores 1 2 3 of a, and of b the means 2 2 5, leads 1 0 2: mean 1, deviation 1.

    b wins 1, 1/2 and 1 against a. The second file of b for p0 loses to nobody: a has one file.
    """
    table = tmp_path / "scores.csv"
    rows = ["a/p0/0,1", "a/p1/0,2", "a/p2/0,3", "b/p0/0,3", "b/p0/1,1", "b/p1/0,2", "b/p2/0,5"]
    table.write_text("\n".join(["id,value", *rows]), "utf-8")
    outputs = answers({"a": [0, 0, 0], "b": [[0, 1], 0, 0]}, ["x", "x", "y"])
    report = evaluate_models(outputs, {"table": open_judge(f"table:{table}")}).report
    half = T_2 / math.sqrt(3)
    a, b = (report["models"][name]["table"] for name in "ab")
    assert (a["mean"], a["median"], a["n"], a["outputs"], a["spread"]) == (2, 2, 3, 3, 1)
    assert a["ci95"] == pytest.approx([2 - half, 2 + half])
    assert (b["mean"], b["median"], b["n"], b["outputs"]) == (3, 2, 3, 4)
    paired = report["paired"]["b"]["table"]
    assert (paired["difference"], paired["n"], paired["n_comparisons"]) == (1, 3, 3)
    assert paired["ci95"] == pytest.approx([1 - half, 1 + half])
    assert paired["win_rate"] == pytest.approx(2.5 / 3)
    assert paired["flips"] is None
    assert report["win_rates"]["table"]["a"]["b"]["value"] == pytest.approx(0.5 / 3)
    strengths = report["bradley_terry"]["table"]
    assert strengths["a"]["strength"] == pytest.approx(-strengths["b"]["strength"])
    assert strengths["b"]["strength"] > 0
    assert report["categories"]["x"]["paired"]["b"]["table"]["difference"] == 0.5
    assert report["categories"]["y"]["models"]["b"]["table"]["mean"] == 5
    assert report["categories"]["y"]["models"]["b"]["table"]["ci95"] is None
    assert [row["prompt"] for row in report["most_different"]] == ["p2", "p0"]
    assert report["most_different"][0]["values"] == {"a": 3, "b": 5}
    assert report["judges"]["table"]["calls"] == 7
    assert list(report["paired"]) == ["b"]


def test_a_judge_that_only_compares_gives_shares_of_wins():
    judge = Numbers(("compare",))
    report = evaluate_models(answers({"a": [1, 1], "b": [2, 1], "c": [3, 1]}), {"r": judge}).report
    assert (report["judges"]["r"]["kind"], report["judges"]["r"]["calls"]) == ("win_rate", 12)
    means = {model: report["models"][model]["r"]["mean"] for model in "abc"}
    # By p0 0.2, 0.5 and 0.8 against the two others on average; by p1 nobody leads.
    assert means == pytest.approx({"a": 0.35, "b": 0.5, "c": 0.65})
    assert report["paired"]["c"]["r"]["win_rate"] == pytest.approx(0.65)
    assert report["paired"]["c"]["r"]["difference"] == pytest.approx(0.3)


def test_shares_of_wins_are_against_all_others():
    """At p1 there is no b, whom c beats by 0.8 as it does a: its share there is not of a alone."""
    judge = Numbers(("compare",))
    values = {"a": [1, 1], "b": [2, None], "c": [3, 1], "d": ["silent"] * 2}
    report = evaluate_models(answers(values), {"r": judge}).report
    rows = {model: report["models"][model]["r"] for model in "abcd"}
    # Rates of a: 0.2 against b, and 0.2 and 0.5 against c.
    assert rows["a"]["mean"] == pytest.approx((0.2 + 0.35) / 2)
    assert rows["b"]["mean"] == pytest.approx((0.8 + 0.2) / 2)
    assert rows["c"]["mean"] == pytest.approx((0.8 + 0.65) / 2)
    assert (rows["d"]["mean"], rows["c"]["median"]) == (None, pytest.approx(0.8))
    assert report["paired"]["c"]["r"]["difference"] == pytest.approx((0.8 + 0.65 - 0.2 - 0.35) / 2)


def test_models_that_no_comparison_connects_are_noted():
    """Nothing is known about a model without comparisons, which is no strength of 0."""
    outputs = answers({"a": [1, 1], "b": [2, 2], "c": ["silent"] * 2})
    report = evaluate_models(outputs, {"r": Numbers(("compare",))}).report
    strengths = report["bradley_terry"]["r"]
    assert strengths["c"] == {"strength": None, "ci95": None, "rank": [1, 3]}
    assert strengths["b"]["strength"] > 0 > strengths["a"]["strength"]
    assert "whose strengths cannot be compared: a, b | c" in report["notes"][-1]
    lost = [row for row in report["warnings"] if row["kind"] == "few" and row["model"]]
    assert {row["model"] for row in lost} == {"a", "b", "c"}
    assert "c lacks comparisons by r for 2 of 2 prompts" in lost[-1]["text"]


def test_a_single_model_has_values_and_no_comparison():
    """Scores 1 and 5 of the scale 0 to 10: Student's t of one degree would go from -22 to 28."""
    report = evaluate_models(answers({"a": [1, 5]}), {"r": Numbers()}).report
    low, high = report["models"]["a"]["r"]["ci95"]
    assert 0 <= low < report["models"]["a"]["r"]["mean"] == 3 < high <= 10
    assert report["bradley_terry"] == report["win_rates"] == report["paired"] == {}
    assert (report["notes"], report["most_different"]) == ([], [])


def test_a_comparison_whose_winner_follows_the_order_is_counted_and_warned_of():
    outputs = answers({"a": [1] * 20, "b": [1.1] * 20})
    report = evaluate_models(outputs, {"r": Numbers(blur=0.5)}).report
    assert report["paired"]["b"]["r"]["flips"] == report["judges"]["r"]["flips"] == 1
    assert [warning["kind"] for warning in report["warnings"]] == ["order"]
    once = evaluate_models(outputs, {"r": Numbers(blur=0.5)}, orders=1).report
    assert once["paired"]["b"]["r"]["flips"] is None
    assert once["judges"]["r"]["calls"] == report["judges"]["r"]["calls"] - 20


def test_readings_are_averaged_and_their_deviation_is_pooled():
    """Each score is read one higher and one lower: a variance of 2, and a mean as if read once."""
    outputs = answers({"a": [4.0] * 20, "b": [4.5] * 20})
    report = evaluate_models(outputs, {"r": Readings(("score",))}, readings=2).report
    assert report["judges"]["r"]["reading_sigma"] == pytest.approx(math.sqrt(2))
    assert report["judges"]["r"]["calls"] == 80
    assert report["models"]["b"]["r"]["mean"] == 4.5
    assert report["models"]["b"]["r"]["outputs"] == 20
    (warning,) = report["warnings"]
    assert (warning["kind"], warning["model"]) == ("reading", "b")
    assert "+0.5" in warning["text"]
    assert "0.877" in warning["text"]  # 1.96 sqrt(2) sqrt(2 / 20)


def test_answers_without_a_number_are_listed_and_never_averaged():
    outputs = answers({"a": [1, 2, 3], "b": [5, "silent", "broken"]})
    report = evaluate_models(outputs, {"r": Numbers()}).report
    assert report["models"]["b"]["r"]["mean"] == 5
    assert report["models"]["b"]["r"]["n"] == report["paired"]["b"]["r"]["n"] == 1
    assert report["paired"]["b"]["r"]["n_comparisons"] == 1
    assert (report["judges"]["r"]["unparsed"], report["judges"]["r"]["failed"]) == (2, 2)
    rows = {(row["model"], row["prompt"]): row for row in report["missing"]}
    assert {key: (row["kind"], row["reason"]) for key, row in rows.items()} == {
        ("b", "p1"): ("unparsed", "no number"),
        ("a|b", "p1"): ("unparsed", "no number"),
        ("b", "p2"): ("failed", "the server is down"),
        ("a|b", "p2"): ("failed", "the server is down"),
    }
    assert {row["reward"] for row in report["missing"]} == {"r"}
    assert "few" in {warning["kind"] for warning in report["warnings"]}


def test_a_judge_of_aspects_alone_gives_a_reward_for_each(tmp_path):
    outputs = answers({"a": [1, 2], "b": [5, -10]})
    report = evaluate_models(outputs, {"r": Aspects(("score",))}, out=tmp_path).report
    assert "r.length" in (tmp_path / "page.html").read_text("utf-8")
    assert report["rewards"] == ["r.length", "r.size"]
    assert report["models"]["b"]["r.length"]["mean"] == 2
    assert report["models"]["b"]["r.size"] | {"mean": 5, "n": 1} == report["models"]["b"]["r.size"]
    assert report["paired"]["b"]["r.size"]["difference"] == 4
    (lost,) = report["missing"]
    assert lost["reward"] == "r.size"
    assert lost["reason"] == "no score for size in the answer"
    assert [path.name for path in (tmp_path / "verdicts").glob("*.jsonl")] == ["r.jsonl"]


def test_a_report_has_nulls_where_a_figure_does_not_exist():
    report = evaluate_models(answers({"a": [1]}), {"r": Numbers(), "s": Numbers()}).report
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert report["models"]["a"]["r"]["ci95"] is None
    assert report["models"]["a"]["r"]["spread"] is None
    assert report["correlations"][0]["spearman"] is None
    assert (report["paired"], report["people"], report["budget"]) == ({}, None, None)


def lines(out, reward="r"):
    return verdicts_path(out, reward).read_text("utf-8").splitlines()


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("n", [0, 3, 5, 13, 20])
def test_a_stopped_run_goes_on_to_the_figures_of_a_whole_one(tmp_path, n):
    outputs = answers({"a": [1, 2, 3, 4], "b": [2, 2, 5, 1], "c": [3, 3, 3, 3]})
    whole = evaluate_models(outputs, {"r": Numbers()}, out=tmp_path / "whole").report
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(outputs, {"r": Numbers(fails_after=n)}, out=out)
    path = verdicts_path(out, "r")
    kept = len(lines(out)) if path.exists() else 0
    assert kept == n // 4 * 4
    judge = Numbers()
    assert evaluate_models(outputs, {"r": judge}, out=out).report == whole
    assert len(judge.ids) == 24 - kept
    assert lines(out) == lines(tmp_path / "whole")
    assert json.loads((out / "report.json").read_text("utf-8")) == whole


@pytest.mark.usefixtures("chunks_of_four")
def test_only_what_is_new_is_asked_when_models_and_prompts_are_added(tmp_path):
    first = answers({"a": [1, 2, 3], "b": [3, 2, 1]})
    evaluate_models(first, {"r": Numbers()}, out=tmp_path)
    more = answers({"a": [1, 2, 3, 4], "b": [3, 2, 1], "c": [5, None, None]})
    judge = Numbers()
    report = evaluate_models(more, {"r": judge}, out=tmp_path).report
    assert sorted(judge.ids) == ["a/p3/0", "a|c/p0/0", "b|c/p0/0", "c/p0/0"]
    assert report == evaluate_models(more, {"r": Numbers()}).report
    fewer = evaluate_models(first, {"r": Numbers(fails_after=0)}, out=tmp_path).report
    assert fewer == evaluate_models(first, {"r": Numbers()}).report


def test_a_changed_answer_judge_or_setting_is_refused(tmp_path):
    outputs = answers({"a": [1], "b": [2]})
    evaluate_models(outputs, {"r": Numbers()}, out=tmp_path)
    before = lines(tmp_path)
    with pytest.raises(ConfigError, match=r"r.jsonl was made from other inputs.*'b/p0/0'"):
        evaluate_models(answers({"a": [1], "b": [3]}), {"r": Numbers()}, out=tmp_path)
    with pytest.raises(ConfigError, match="judge was 'numbers' and is 'scripted:tie'"):
        evaluate_models(outputs, {"r": open_judge("scripted:tie")}, out=tmp_path)
    with pytest.raises(ConfigError, match="orders was 2 and is 1"):
        evaluate_models(outputs, {"r": Numbers()}, out=tmp_path, orders=1)
    assert lines(tmp_path) == before


def test_failed_questions_are_asked_again_on_demand(tmp_path):
    outputs = answers({"a": [1, 2], "b": [3, "broken"]})
    evaluate_models(outputs, {"r": Numbers()}, out=tmp_path)
    repaired = Numbers(repaired=True)
    report = evaluate_models(outputs, {"r": repaired}, out=tmp_path).report
    assert (report["judges"]["r"]["failed"], repaired.ids) == (2, [])
    report = evaluate_models(outputs, {"r": repaired}, out=tmp_path, retry_failed=True).report
    assert repaired.ids == ["b/p1/0", "a|b/p1/0"]
    assert report["models"]["b"]["r"]["mean"] == 5


@pytest.mark.usefixtures("chunks_of_four")
def test_a_budget_is_kept_and_says_what_it_saved(tmp_path):
    """a and b are far apart and b and c close, so b meets c more often than a."""
    values = {"a": [1] * 40, "b": [5] * 40, "c": [5.1] * 40}
    outputs, judges = answers(values), [Numbers(("compare",), blur=1) for _ in range(3)]
    arguments = {"budget": 121, "out": tmp_path / "out"}
    report = evaluate_models(outputs, {"r": judges[0]}, **arguments).report
    budget = report["budget"]["r"]
    assert (budget["calls"], budget["full_calls"], budget["saved"]) == (120, 240, 120)
    assert len(judges[0].ids) == sum(budget["pairs"].values()) == 60
    assert budget["pairs"]["b|c"] > budget["pairs"]["a|c"] >= 1
    assert 0 < budget["width"] < 1
    assert evaluate_models(outputs, {"r": judges[1]}, **arguments).report == report
    assert judges[1].ids == []
    stopped = Numbers(("compare",), blur=1, fails_after=30)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(outputs, {"r": stopped}, budget=121, out=tmp_path / "stopped")
    resumed = evaluate_models(outputs, {"r": judges[2]}, budget=121, out=tmp_path / "stopped")
    assert resumed.report == report
    assert len(judges[2].ids) == 60 - 28


def test_a_budget_of_more_than_all_comparisons_asks_each_once():
    judge = Numbers()
    report = evaluate_models(answers({"a": [1], "b": [2]}), {"r": judge}, budget=100).report
    assert judge.ids == ["a/p0/0", "b/p0/0", "a|b/p0/0"]
    assert report["budget"]["r"]["saved"] == 0


def vote(prompt, choice, rater):
    item, tags = f"item {prompt.id}", {"prompt_id": prompt.id}
    example = replace(prompt, candidates=("1", "2"), id=item, tags=tags)
    return Vote(example, "a", "b", choice, rater, 1.0, "ab", "2026-01-01T00:00:00Z")


def test_votes_calibrate_the_first_judge():
    """People prefer b for 3 of 4 prompts; the judge prefers it for all 4 and 8 of 16 others."""
    outputs = answers({"a": [1] * 20, "b": [2] * 12 + [0] * 8})
    votes = [vote(outputs.prompts[f"p{i}"], "a" if i == 0 else "b", "r1") for i in range(4)]
    votes += [vote(outputs.prompts["p1"], "b", "r2")]
    table = Numbers(("score",))
    report = evaluate_models(outputs, {"r": table}, votes=votes).report
    row = report["people"]["b"]
    assert (row["reward"], row["n_votes"], row["n_judged"]) == ("r", 4, 20)
    assert row["votes_alone"]["value"] == 0.75
    assert row["judge_alone"]["value"] == 0.6
    assert row["weight"] == 0  # where people voted, the judge always says the same
    untagged = [replace(one, example=replace(one.example, tags={})) for one in votes]
    assert evaluate_models(outputs, {"r": table}, votes=untagged).report["people"]["b"] == row
    votes += [vote(replace(outputs.prompts["p1"], id="of another run"), "b", "r1")]
    report = evaluate_models(outputs, {"r": table}, votes=votes).report
    assert "1 of 6 votes are of other models or prompts" in report["notes"][0]
    other = evaluate_models(answers({"a": [1], "c": [2]}), {"r": table}, votes=votes).report
    assert other["people"] is None
    assert "no vote is of a prompt here" in other["notes"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "z"}, "no model 'z' to be the baseline; there are a, b"),
        ({"by": "all"}, "by is both, score or pairs, not 'all'"),
        ({"readings": 0}, "readings and budget are >= 1, not 0 and None"),
        ({"budget": 1}, "two calls, and the budget is 1"),
        ({"budget": 9, "by": "score"}, "a budget is of comparisons"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_asked(options, message):
    judge = Numbers()
    with pytest.raises(ConfigError, match=message):
        evaluate_models(answers({"a": [1], "b": [2]}), {"r": judge}, **options)
    assert judge.ids == []


def test_the_folder_of_another_command_is_refused(tmp_path):
    (tmp_path / "report.json").write_text('{"name": "fetv"}', "utf-8")
    judge = Numbers()
    with pytest.raises(ConfigError, match=r"report.json is not of an evaluation"):
        evaluate_models(answers({"a": [1]}), {"r": judge}, out=tmp_path)
    assert judge.ids == []


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ConfigError, match="no outputs of models"):
        evaluate_models(ModelOutputs({}, {}), {"r": Numbers()})
    with pytest.raises(ConfigError, match="no judge is named"):
        evaluate_models(answers({"a": [1]}), {})
    with pytest.raises(ConfigError, match="nothing to compare, as no prompt has outputs of two"):
        evaluate_models(answers({"a": [1, None], "b": [None, 2]}), {"r": Numbers(("compare",))})


def test_a_judge_is_opened_when_its_turn_comes():
    opened = []

    def opener(name):
        def opens():
            opened.append(name)
            return Numbers()

        return opens

    report = evaluate_models(
        answers({"a": [1, 2, 3], "b": [3, 5, 4]}), {name: opener(name) for name in ("r", "s")}
    ).report
    assert opened == report["rewards"] == ["r", "s"]
    assert report["correlations"] == [
        {"a": "r", "b": "s", "spearman": pytest.approx(1), "ci95": [pytest.approx(1)] * 2, "n": 3}
    ]
