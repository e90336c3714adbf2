"""The benchmark of the reward server runs, and its checks would see what is wrong."""

import json
import sys

import pytest

from benchmarks import serve
from benchmarks.serving.faults import outcome
from benchmarks.serving.hostile import JUDGE, Planned
from benchmarks.serving.http import Answer


def answer(*rows, status=200):
    made = [dict(zip(("id", "value", "reason"), row, strict=True)) for row in rows]
    return Answer(status, {}, json.dumps({"results": {JUDGE: made}}).encode())


SOUND, BROKEN = ("a", 0.5, None), ("b", None, "not an image")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (answer(SOUND, BROKEN), "ok"),
        (answer(SOUND, ("b", 0.0, None)), "number for a failure"),
        (answer(SOUND, ("b", None, None)), "no reason"),
        (answer(("a", None, "full"), BROKEN), "failure without a fault"),
        (answer(("a", float("nan"), None), BROKEN), "no reason"),
        (answer(("x", 0.5, None), BROKEN), "answer of another request"),
        (answer(status=500), "wrong status"),
    ],
)
def test_an_answer_that_is_wrong_is_called_so(given, found):
    planned = Planned("broken media", b"", ids=["a", "b"], fails=[False, True])
    assert outcome(planned, given) == found


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "speed --clients 2 --groups 2 --seconds 0.2 --repeats 2 --formats png --cached",
        "faults --requests 60 --clients 8",
    ],
)
def test_the_benchmark_runs(command, tmp_path, monkeypatch):
    out = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["serve", *command.split(), "--json", str(out)])
    serve.main()
    report = json.loads(out.read_text("utf-8"))
    # So few requests do not fill the server's memory of media, so that it still grows.
    broken = [text for text in report.get("broken", ()) if "memory" not in text]
    assert not broken
    assert report.get("rows") or report["kinds"]["sound"]["ok"] > 30
