"""Judges on servers from the command line: options, notes, secrets, and errors in one line."""

from __future__ import annotations

import json

import pytest

from tests.fake_server import FakeServer, answer, chat
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Preferred, Ranking, Scored, Unparsed
from unified_reward.io.verdict_rows import read_verdict, verdict_row
from unified_reward.judges.registry import JudgeOptions, open_judge


CUBE = ("--prompt", "a red cube", "--model", "judge")
ROW = {"task": "image_generation", "prompt": "a red cube", "candidates": [{"image": "a.png"}]}


def refusing_seed(call):
    if "seed" in call.body:
        return answer({"error": {"message": "seed: unknown field"}}, 400)
    return chat("Final Score: 4")


def row(out):
    (line,) = out.splitlines()
    return json.loads(line)


def test_options_of_a_server_reach_it_and_notes_are_no_failure(cli, files):
    body = '{"top_k": 1, "max_completion_tokens": 64, "max_tokens": null}'
    options = ["--extra-body", body, "--extra-header", "api-key: hunter22"]
    options += ["--max-pixels", "16", "--image-format", "jpeg", "--image-quality", "90", "--json"]
    with FakeServer(refusing_seed) as server:
        done = cli("score", files / "a.png", *CUBE, "--judge", server.url, *options)
    assert done[0] == 0
    found = row(done[1])
    assert (found["status"], found["value"]) == ("scored", 4)
    assert found["reason"] == (
        "note: the images were scaled to at most 16 pixels; "
        "the images were sent as jpeg of quality 90; the server refuses seed: left out"
    )
    (call,) = server.calls[1:]
    assert call.headers["api-key"] == "hunter22"
    assert (call.body["top_k"], call.body["max_completion_tokens"]) == (1, 64)
    assert "max_tokens" not in call.body


def test_notes_are_printed_once_beside_the_table(cli, files):
    with FakeServer(refusing_seed) as server:
        files_twice = [files / "a.png", files / "b.png"]
        code, out, err = cli("score", *files_twice, *CUBE, "--judge", server.url)
    assert (code, err) == (0, "note: the server refuses seed: left out\n")
    assert out.count("4.00") == 2


def test_a_bulk_run_keeps_fields_but_no_header_and_refuses_other_fields(cli, files):
    rows = [{"id": "one", **ROW}, {"id": "many", **ROW, "candidates": ROW["candidates"] * 3}]
    source, out = files / "in.jsonl", files / "out.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    with FakeServer(refusing_seed) as server:
        common = ["judge", source, out, "--model", "judge", "--judge", server.url]
        common += ["--extra-header", "api-key: hunter22"]
        assert cli(*common, "--extra-body", '{"top_k": 1}')[0] == 0
        before = out.read_bytes()
        code, _, err = cli(*common, "--extra-body", '{"top_k": 2}')
        assert (code, out.read_bytes()) == (2, before)
        assert "extra_body" in err
        assert cli(*common[:-1], "api-key: other", "--extra-body", '{"top_k": 1}')[0] == 0
    kept = {file.name: file.read_text("utf-8") for file in files.glob("out.jsonl*")}
    assert len(kept) > 1
    assert "hunter22" not in "".join(kept.values())
    assert {json.loads(line)["reason"] for line in kept["out.jsonl"].splitlines()} == {
        "note: the server refuses seed: left out"
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra-body", "{"], "--extra-body: Invalid JSON"),
        (["--extra-body", "[1]"], "--extra-body is a JSON object"),
        (["--extra-body", '{"x": NaN}'], "NaN is not a number; null is right"),
        (["--extra-body", '{"x": 1, "x": 2}'], "the key 'x' stands twice"),
        (["--extra-body", '{"messages": []}'], "extra_body cannot set 'messages'"),
        (["--extra-header", "hunter22"], "--extra-header is NAME:VALUE"),
        (["--extra-header", "api-key: hünter22"], "the header api-key has characters"),
    ],
)
def test_options_that_cannot_be_used_end_with_2_in_one_line(cli, files, options, words):
    code, out, err = cli(
        "score", files / "a.png", *CUBE, "--judge", "http://127.0.0.1:9/v1", *options
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert "nter22" not in err


@pytest.mark.parametrize("command", ["score", "judge"])
def test_a_proxy_that_cannot_be_used_ends_with_2_in_one_line(cli, files, command, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://me:hunter22@127.0.0.1:9")
    source = files / "in.jsonl"
    source.write_text("".join(json.dumps({"id": i, **ROW}) + "\n" for i in "abc"), "utf-8")
    given = [files / "a.png", *CUBE] if command == "score" else [source, files / "out.jsonl"]
    code, out, err = cli(command, *given, "--judge", "http://judge.example.org/v1")
    assert (code, out, err.count("Traceback")) == (2, "", 0)
    assert "ALL_PROXY=socks://***@127.0.0.1:9 cannot be used" in err.splitlines()[-1]


def test_options_of_a_server_are_refused_elsewhere_without_their_secrets(cli, files):
    code, _, err = cli(
        *("score", files / "a.png", "--prompt", "x", "--judge", "scripted:first"),
        *("--extra-header", "api-key: hunter22"),
    )
    assert code == 2
    assert "extra_headers is for servers" in err
    assert "hunter22" not in err
    assert "hunter22" not in repr(JudgeOptions(api_key="hunter22", extra_headers={"a": "hunter22"}))


def test_both_orders_and_checklists_pass_their_notes_on(files):
    phrase = "Image 1 is better than Image 2."
    with FakeServer(lambda _: chat(phrase)) as server:
        judge = open_judge(server.url, model="judge", max_pixels=16)
        verdict = judge.compare("a red cube", images=[files / "a.png", files / "b.png"])
    assert verdict.notes == ("the images were scaled to at most 16 pixels",)
    assert verdict.mirrored().notes == verdict.notes
    assert [each.notes for each in verdict.orders] == [verdict.notes] * 2


def test_a_refusal_of_the_judge_is_unparsed(files):
    with FakeServer(lambda _: chat(None, message={"refusal": "Final Score: 4? No."})) as server:
        judge = open_judge(server.url, model="judge")
        sample = Sample(Task.IMAGE_GENERATION, "a red cube", (Image(files / "a.png"),))
        (verdict,) = judge.ask([sample])
    reason = "the judge refuses to answer: Final Score: 4? No."
    assert verdict == Unparsed(reason, "Final Score: 4? No.")


@pytest.mark.parametrize(
    "verdict",
    [
        Scored(None, notes=("scaled", "as jpeg")),
        Preferred(0.25, 0.25, 0.5, notes=("scaled",)),
        Preferred(0.25, 0.25, 0.5),
    ],
)
def test_notes_of_a_row_are_read_back(verdict):
    assert read_verdict(verdict_row("a", verdict, judge="j", family="f")) == verdict


def test_a_ranking_gives_its_losses_before_its_notes():
    scored = Scored(None, notes=("scaled",))
    complete = Ranking((0, 1), (1.0, 0.5), (scored, scored))
    lacking = Ranking((0,), (1.0, None), (scored, Unparsed("no score")))
    found = [verdict_row("a", r, judge="j", family="f")["reason"] for r in (complete, lacking)]
    assert found == ["note: scaled", "no score"]
