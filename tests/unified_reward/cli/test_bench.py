"""Official benchmarks, their comparison and the audit on the command line."""

import json
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from unified_reward.cli import app
from unified_reward.cli.output import report_table
from unified_reward.core.errors import ConfigError, DataError


def invoked(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def reported(*arguments, code=0):
    result = invoked(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"id": i, "caption": f"cat {i}", "image_0_uid": "a", "image_1_uid": "b", "label": label}
        for i, label in enumerate(["0", "1", "tie", "0"])
    ]
    (tmp_path / "pickapic_val500.json").write_text(json.dumps(rows), "utf-8")
    return tmp_path


def test_an_official_benchmark_writes_verdicts_report_and_page(folder):
    out = folder / "out"
    arguments = ("bench", "--on", "pickapic_val500", "--data", folder, "--out", out)
    report = reported(*arguments, "--judge", "scripted:perfect")
    assert (report["name"], report["n"], report["n_failed"]) == ("pickapic_val500", 4, 0)
    assert report == json.loads((out / "report.json").read_text("utf-8"))
    assert len((out / "verdicts.jsonl").read_text("utf-8").splitlines()) == 4
    assert "half point accuracy" not in (out / "page.html").read_text("utf-8")
    assert "half_point_accuracy" in (out / "page.html").read_text("utf-8")


def test_two_runs_are_compared_as_rows_and_as_a_table(folder):
    for name in ("first", "perfect"):
        arguments = ("--on", "pickapic_val500", "--data", folder, "--out", folder / name)
        invoked("bench", *arguments, "--judge", f"scripted:{name}", "--orders", 1)
    report = reported("bench-diff", folder / "first", folder / "perfect")
    row = report["metrics"]["three_way_accuracy"]
    assert (row["b"], row["n"], row["lost"]) == (1, 4, 0)
    assert "B - A" in invoked("bench-diff", folder / "first", folder / "perfect").output


def test_broken_rows_are_told_by_the_exit_code_and_counted(folder):
    file = folder / "pickapic_val500.json"
    file.write_text(json.dumps([*json.loads(file.read_text("utf-8")), {"id": 9}]), "utf-8")
    arguments = ("bench", "--on", "pickapic_val500", "--data", folder, "--judge", "scripted:tie")
    report = reported(*arguments, code=1)
    assert (report["n"], report["n_broken_rows"]) == (4, 1)
    assert "1 row is no item of pickapic_val500, such as row " in invoked(*arguments).stderr


def test_names_of_a_table_are_whole_on_a_narrow_terminal():
    metric = {"value": 1.0, "ci95": [0.5, 1.0], "n": 200}
    metrics = {"pair_accuracy_ties_wrong": metric}
    report = {"name": "m", "judge": "j", "metrics": metrics, "groups": {"G" * 26: metrics}}
    for width in (80, 60):
        console = Console(width=width, file=StringIO())
        console.print(report_table(report))
        text = console.file.getvalue()
        assert text.count("pair_accuracy_ties_wrong") == 2
        assert text.count("G") == 26
        assert "…" not in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--on", "nothing"), ConfigError, "no benchmark 'nothing'; there are fetv"),
        (("--on", "fetv"), ConfigError, "fetv needs --data"),
        (("--on", "fetv", "--data", "./gone"), ConfigError, "no file or folder"),
        (("--on", "fetv", "--data", "."), DataError, "human_ratings_all.jsonl"),
    ],
)
def test_wrong_usage_says_what_would_be_right(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoked("bench", *arguments, "--judge", "scripted:first")
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_an_audit_writes_one_json_and_one_page(tmp_path):
    made = tmp_path / "made"
    task = ("--task", "image_understanding", "--n", 6, "--split", "test")
    assert invoked("data", "make", "microworld", made, *task).exit_code == 0
    arguments = ("audit", "--data", made / "records.jsonl", "--judge", "scripted:first")
    report = reported(*arguments, "--out", tmp_path / "out")
    assert report["metrics"]["position_flips"]["value"] == 1
    assert report == json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert "Audit of scripted:first" in (tmp_path / "out" / "audit.html").read_text("utf-8")
    silent = reported(
        "audit", "--data", made / "records.jsonl", "--judge", "scripted:silent", code=1
    )
    assert silent["n_unparsed"] == silent["n_questions"]


def test_an_audit_of_nothing_says_so(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n", "utf-8")
    result = invoked("audit", "--data", file, "--judge", "scripted:first")
    assert isinstance(result.exception, DataError)
    assert "no usable item" in str(result.exception)


def test_an_audit_tells_of_rows_without_candidates(tmp_path):
    file = tmp_path / "in.jsonl"
    prompt = {"id": "p", "task": "image_understanding", "prompt": "q", "context": [{"image": "a"}]}
    file.write_text(json.dumps(prompt))
    arguments = ("audit", "--data", file, "--judge", "scripted:first")
    with pytest.raises(DataError, match="no usable item: line 1: no candidates to ask about"):
        raise invoked(*arguments).exception
    answers = [{"text": "yes"}, {"text": "no"}]
    file.write_text(
        "\n".join(map(json.dumps, (prompt, prompt | {"id": "a", "candidates": answers})))
    )
    result = invoked(*arguments)
    assert result.exit_code == 1
    assert "line 1: no candidates to ask about" in result.output


def test_failed_items_are_asked_again_in_a_run_that_is_there(folder):
    arguments = ("bench", "--on", "pickapic_val500", "--data", folder, "--judge", "scripted:tie")
    result = invoked(*arguments, "--retry-failed")
    assert isinstance(result.exception, ConfigError)
    assert "--retry-failed goes with --out" in str(result.exception)
    assert reported(*arguments, "--out", folder / "out", "--retry-failed")["n"] == 4


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_a_report_of_another_kind_is_named(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match=r"was not written by bench --out: .*report.json"):
        raise invoked("bench-diff", tmp_path, tmp_path).exception
