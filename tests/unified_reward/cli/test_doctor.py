"""``unified-reward doctor``: one object of JSON, a report for people, exit codes."""

import json
from dataclasses import replace

import pytest

from tests.unified_reward.cli.test_without_extras import in_one_process
from unified_reward.cli import doctor as command
from unified_reward.core.install import install_command
from unified_reward.doctor import diagnosis
from unified_reward.doctor.self_tests import SelfTest
from unified_reward.doctor.versions import Extra


KEYS = [
    *("schema", "unified_reward", "python", "executable", "platform", "packages", "extras"),
    *("cpu", "memory", "disks", "devices", "backends", "decoders", "compilers", "cached"),
    *("folders", "fits", "tests", "problems", "next"),
]


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")  # as the command sets them, for this test alone


@pytest.fixture
def outcomes(monkeypatch):
    """Replace the self-tests by their outcomes."""

    def give(*tests):
        monkeypatch.setattr(command, "run_self_tests", lambda *_: list(tests))

    return give


def test_json_is_one_object_with_every_key(cli, outcomes):
    outcomes(SelfTest("read an image", "", "ok", 0.1, "PNG"))
    code, out, err = cli("doctor", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert list(report) == KEYS
    assert report["schema"] == 1
    assert report["tests"] == [
        {"name": "read an image", "extra": "", "status": "ok", "seconds": 0.1, "reason": "PNG"}
    ]
    fit = report["fits"][0]
    assert list(fit) == [
        *("place", "model", "kind", "like", "parameters", "use", "dtype", "bytes", "fits")
    ]


def test_the_report_is_grouped_and_ends_with_what_to_do_next(cli, outcomes):
    outcomes(SelfTest("DPO step", "train", "skipped", 0.0, "[train] lacks trl"))
    code, out, err = cli("doctor")
    assert (code, err) == (0, "")
    titles = ("Missing", "Fits on", "Self-tests", "Weights", "Machine", "Backends", "Extras")
    titles = (*titles, "Versions")
    places = [out.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
    assert out.splitlines()[-1].startswith("next: ")
    assert "no published weights in the cache" in out


def test_figures_are_whole_on_80_columns(cli, outcomes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcomes()
    _, out, _ = cli("doctor")
    assert " 13B      42.1 -   83.2 -" in out
    assert "…" not in out


def test_names_and_figures_are_whole_on_60_columns(cli, outcomes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    reason = "no weights of a published system are here; give them by `scorers check`"
    outcomes(
        SelfTest("score by a published system", "local", "skipped", 0.0, reason),
        SelfTest("judge a video", "local", "ok", 1.2, "3.10 by tiny_judge"),
    )
    _, out, _ = cli("doctor")
    lines = [line.rstrip() for line in out.splitlines()]
    whole = ("   pip install", "next: ")  # to be copied
    assert max(len(line) for line in lines if not line.startswith(whole)) <= 60
    names = [line.split()[0] for line in lines if line.startswith(" ") and line.strip()]
    assert {"72B", "visionreward-image-without-vqascore", "ixc-2.5-reward-newline"} <= {*names}
    assert " score by a published system" in lines
    assert "    ok, 1.2 s, 3.10 by tiny_judge" in lines
    assert "…" not in out


def test_what_failed_and_what_is_missing_come_first(cli, outcomes, monkeypatch):
    absent = Extra("ray", "absent", ("ray",), (), "pip install -e '/a long/place[ray]'")
    found = diagnosis.diagnose()
    others = [extra for extra in found.extras if extra.name != "ray"]
    found = replace(found, extras=[*others, absent])
    monkeypatch.setattr(diagnosis, "diagnose", lambda: found)
    monkeypatch.setenv("COLUMNS", "30")
    outcomes(SelfTest("DPO step", "train", "failed", 1.0, "RuntimeError: no"))
    _, out, _ = cli("doctor")
    first = out.split("Fits on")[0].splitlines()
    assert first[1:3] == ["Self-tests that failed", " DPO step"]
    assert first[-3:-1] == [" [ray] ray", "   pip install -e '/a long/place[ray]'"]


def test_a_self_test_that_fails_is_exit_1_and_is_next(cli, outcomes):
    outcomes(SelfTest("Ray task", "ray", "failed", 1.0, "RuntimeError: no"))
    code, out, _ = cli("doctor")
    assert code == 1
    assert "RuntimeError: no" in out
    assert out.splitlines()[-1] == f"next: {install_command('ray', upgrade=True)}"


def test_without_self_tests_none_is_run(cli, monkeypatch):
    monkeypatch.setattr(command, "run_self_tests", None)
    code, out, _ = cli("doctor", "--no-self-test", "--json")
    assert (code, json.loads(out)["tests"]) == (0, [])


def test_wrong_usage_is_exit_2(cli):
    code, out, err = cli("doctor", "everything")
    assert (code, out) == (2, "")
    assert "everything" in err


def test_the_base_alone_is_diagnosed():
    # The metadata says that torch is installed, importing it says that it is not.
    ((code, out, err),) = in_one_process([["doctor", "--no-self-test", "--json"]])
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["backends"] is None
    (problem,) = report["problems"]
    assert problem.startswith("local models cannot be used: torch is not installed")
    assert {row["fits"] for row in report["fits"] if row["model"] == "0.5B"} != {"unknown"}
