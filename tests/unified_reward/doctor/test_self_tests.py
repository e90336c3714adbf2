"""Self-tests: real ones on the tiny weights; one that fails stops nothing."""

import sys

import pytest
import torch

from tests.pretended_cuda import pretended_cuda
from unified_reward.doctor import self_tests
from unified_reward.doctor.self_tests import TESTS, run_self_tests


HEAVY = {"train": "not now", "diffusion": "not now", "ray": "not now", "report": "not now"}


def test_each_installed_capability_is_tried(capsys):
    done = []
    outcomes = {test.name: test for test in run_self_tests(HEAVY, {}, done.append)}
    assert sum(done) == len(outcomes) == len(TESTS)
    failed = {name: test.reason for name, test in outcomes.items() if test.status == "failed"}
    assert failed == {}
    tried = {name for name, test in outcomes.items() if test.status == "ok"}
    assert tried == {
        *("read an image", "decode a video", "judge an image", "judge a video"),
        *("score by a published system", "serve and ask", "vote in an arena"),
        "benchmark metrics",
    }
    assert outcomes["DPO step"].reason == "not now"
    assert outcomes["score by a published system"].reason == "pickscore on random weights"
    assert outcomes["vote in an arena"].reason == "a vote on two images"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_all_are_tried_where_all_is_installed():
    outcomes = {test.name: test for test in run_self_tests({}, {})}
    assert {test.status for test in outcomes.values()} == {"ok"}
    assert outcomes["DPO step"].reason == "loss 0.693 in one step", "ln 2, before anything moved"


def test_one_that_fails_is_an_outcome_and_the_next_goes_on(monkeypatch):
    def broken(_):
        raise RuntimeError("no kernel image\nis available")

    rest = [TESTS[0]]
    monkeypatch.setattr(self_tests, "TESTS", (("broken", "", broken), *rest))
    first, second = run_self_tests({}, {})
    assert (first.status, first.reason) == ("failed", "RuntimeError: no kernel image is available")
    assert second.status == "ok"


def test_without_the_laboratory_tests_of_models_are_skipped(monkeypatch):
    monkeypatch.setattr(self_tests, "find_checkpoint", lambda _: None)
    monkeypatch.setattr(self_tests, "missing_hint", lambda _: "; pip install it")
    wanted = [test for test in TESTS if test[0] == "judge an image"]
    monkeypatch.setattr(self_tests, "TESTS", tuple(wanted))
    (outcome,) = run_self_tests({}, {})
    assert (outcome.status, outcome.reason) == ("skipped", "needs tiny_judge; pip install it")


def test_an_extra_that_is_installed_and_cannot_be_imported_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(self_tests, "TESTS", tuple(test for test in TESTS if test[1] == "ray"))
    (outcome,) = run_self_tests({}, {})
    assert outcome.status == "failed"
    assert "ray" in outcome.reason


def test_each_device_computes(monkeypatch):
    monkeypatch.setattr(self_tests, "TESTS", ())
    with pretended_cuda(torch.nn.Linear(1, 1)):
        outcomes = run_self_tests({}, {"cuda:0": "bfloat16"})
    assert [(test.name, test.status, test.reason) for test in outcomes] == [
        ("compute on cuda:0", "ok", "a product in bfloat16")
    ]
