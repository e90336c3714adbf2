"""``unified-reward judge``: one row an id, whatever is wrong in the file or kills the run."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tests.fake_server import FakeServer, Reply, chat
from tests.unified_reward.io.test_rows import CONTRACT as VERDICT
from unified_reward import media
from unified_reward.io import rows as io_rows
from unified_reward.io.lock import locked


CONTRACT = [*VERDICT, "fingerprint"]
N = 130
"""Two whole chunks and a piece."""


def sample(name, **given):
    """A row about a picture, with some keys replaced."""
    plain = {
        "id": name,
        "task": "image_generation",
        "prompt": f"prompt of {name}",
        "candidates": [{"image": "a.png"}],
    }
    return plain | given


def written(path, rows):
    text = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("".join(f"{one}\n" for one in text), "utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture
def many(files):
    """A file of scores and comparisons."""
    two = [{"image": "a.png"}, {"image": "b.png"}]
    rows = [sample(f"q{i}", **({"candidates": two} if i % 3 else {})) for i in range(N)]
    return written(files / "in.jsonl", rows)


def test_every_id_gets_one_row_with_every_key_and_bad_rows_are_told(cli, files):
    source = written(
        files / "in.jsonl",
        [
            sample("good"),
            "{broken",
            sample("good", prompt="again"),
            sample("lost", candidates=[{"image": "none.png"}]),
            sample("typo", promt="x"),
            sample("雪 [b]{}", candidates=[{"image": "a.png"}, {"image": "b.png"}]),
        ],
    )
    out = files / "new" / "out.jsonl"
    code, printed, err = cli("judge", source, out, "--judge", "scripted:first")
    assert (code, printed) == (1, "")
    assert "Traceback" not in err
    rows = read(out)
    assert all(list(row) == CONTRACT for row in rows)
    assert [(row["id"], row["status"]) for row in rows] == [
        ("good", "scored"),
        ("line 2", "failed"),
        ("line 3", "failed"),
        ("lost", "failed"),
        ("line 5", "failed"),
        ("雪 [b]{}", "preferred"),
    ]
    assert "line 3: duplicate id 'good'" in rows[2]["reason"]
    assert "none.png: cannot be opened" in rows[3]["reason"]


def test_a_second_run_adds_nothing_and_leaves_with_the_same_code(cli, files):
    source = written(files / "in.jsonl", [sample("a"), "{broken"])
    out = files / "out.jsonl"
    codes = [cli("judge", source, out, "--judge", "scripted:first")[0]]
    before = out.read_bytes()
    codes.append(cli("judge", source, out, "--judge", "scripted:first")[0])
    assert codes == [1, 1]
    assert out.read_bytes() == before


def test_with_json_the_rows_written_are_printed_and_nothing_else(cli, many, files):
    out = files / "out.jsonl"
    code, printed, _ = cli("judge", many, out, "--judge", "scripted:random", "--json")
    assert code == 0
    assert printed == out.read_text("utf-8")
    assert [row["id"] for row in read(out)] == [f"q{i}" for i in range(N)]


def test_the_perfect_judge_answers_the_targets_of_the_file(cli, files):
    target = {"score": 4, "scale": [1, 5]}
    source = written(files / "in.jsonl", [sample("a", target=target), sample("b")])
    out = files / "out.jsonl"
    assert cli("judge", source, out, "--judge", "scripted:perfect")[0] == 1
    assert [(row["status"], row["value"]) for row in read(out)] == [("scored", 4), ("failed", None)]


def test_an_empty_file_has_nothing_to_judge(cli, files):
    source = written(files / "in.jsonl", [])
    judged = cli("judge", source, files / "out.jsonl", "--judge", "no such judge")
    made = cli("candidates", source, files / "out", "--policy", "no/such-policy")
    for code, out, err in (judged, made):
        assert (code, out) == (2, "")
        assert err.endswith("in.jsonl has no rows\n")
    assert {file.name for file in files.glob("out*")} == set()


@pytest.mark.parametrize("left", [1, 5000, 20_001, -1])
def test_a_torn_last_line_is_cut_and_its_item_judged_again(cli, many, files, left):
    out = files / "out.jsonl"
    cli("judge", many, out, "--judge", "scripted:random")
    whole = out.read_bytes()
    out.write_bytes(whole[:left])
    code, _, _ = cli("judge", many, out, "--judge", "scripted:random")
    assert code == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"id": "q1"}\n', '{"id": "q1"}'])
def test_an_output_that_is_no_journal_is_refused_and_not_overwritten(cli, many, files, content):
    out = files / "out.jsonl"
    out.write_text(content)
    code, printed, err = cli("judge", many, out, "--judge", "scripted:random")
    assert (code, printed) == (2, "")
    assert "out.jsonl line 1 has no id and status; give another output file" in err
    assert out.read_text() == content


def test_the_input_given_as_output_is_refused_and_not_overwritten(cli, many):
    before = many.read_bytes()
    code, _, err = cli("judge", many, many, "--judge", "scripted:random")
    assert code == 2
    assert "in.jsonl is the input; give another output file" in err
    assert many.read_bytes() == before


@pytest.mark.parametrize("command", ["judge", "pairs"])
def test_candidates_given_as_output_keep_their_last_row(cli, files, command):
    """The last line has no newline, as some editors leave it."""
    three = [{"image": f"{name}.png"} for name in "abc"]
    rows = [sample(f"q{i}", candidates=three, status="generated") for i in range(3)]
    pools = written(files / "pools.jsonl", rows)
    pools.write_bytes(pools.read_bytes().rstrip())
    before = pools.read_bytes()
    for source in (pools, written(files / "in.jsonl", [sample("a", candidates=three)])):
        code, _, err = cli(command, source, pools, "--judge", "scripted:first")
        assert code == 2
        assert "give another output file" in err
        assert pools.read_bytes() == before
    assert not (files / "pools.jsonl.config.json").exists()


def test_an_output_that_is_a_folder_is_refused(cli, many, files):
    code, _, err = cli("judge", many, files, "--judge", "scripted:random")
    assert code == 2
    assert "cannot be written: Is a directory" in err


def _wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("what was waited for never came")


def test_a_killed_run_goes_on_to_what_an_uninterrupted_one_gives(cli, many, files):
    """The server holds back its answers to the second chunk until the run has been killed."""
    killed = threading.Event()
    prompts = set()

    def respond(call):
        prompts.add(call.text)
        if len(prompts) > 80:
            killed.wait(60)
        place = zlib.crc32(call.text.encode()) % 3
        sentence = ["Image 1 is better.", "Both images are equally good.", "Image 2 is better."]
        return chat(f"Final Score: {place + 1}" if "Final Score" in call.text else sentence[place])

    out, whole = files / "out.jsonl", files / "whole.jsonl"
    with FakeServer(respond) as server:
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "unified_reward", "judge", many, out),
                *("--judge", server.url, "--orders", "1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") == 64)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        killed.set()
        assert 0 < len(read(out)) < N
        for path in (out, whole):
            assert cli("judge", many, path, "--judge", server.url, "--orders", "1")[0] == 0
    assert [row["id"] for row in read(out)] == [f"q{i}" for i in range(N)]
    assert out.read_bytes() == whole.read_bytes()


def test_verdicts_of_another_judge_or_manner_are_not_mixed_into_a_file(cli, many, files):
    out = files / "out.jsonl"
    cli("judge", many, out, "--judge", "scripted:first")
    before = out.read_bytes()
    for other in (["--judge", "scripted:tie"], ["--judge", "scripted:first", "--orders", "1"]):
        code, _, err = cli("judge", many, out, *other)
        assert code == 2
        assert "was started with different settings" in err
    assert out.read_bytes() == before
    out.with_name("out.jsonl.config.json").unlink()
    code, _, err = cli("judge", many, out, "--judge", "scripted:first")
    assert code == 2
    assert "out.jsonl.config.json, the settings of" in err


def test_a_ranking_that_lacks_a_candidate_is_an_item_not_answered(cli, files):
    parts = [{"image": f"{name}.png"} for name in ("a", "b", "none")]
    source = written(files / "in.jsonl", [sample("pool", candidates=parts)])
    for _ in range(2):
        assert cli("judge", source, files / "out.jsonl", "--judge", "scripted:first")[0] == 1
    (row,) = read(files / "out.jsonl")
    assert row["status"] == "ranked"
    assert "none.png: cannot be opened" in row["reason"]


def test_a_conversation_without_a_sample_fails_and_the_others_are_judged(cli, files):
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "4"}]
    message = sample("message", candidates=[], context=[{"image": "a.png"}], messages=turns)
    source = written(files / "in.jsonl", [message, sample("good")])
    assert cli("judge", source, files / "out.jsonl", "--judge", "scripted:first")[0] == 1
    lost, judged = read(files / "out.jsonl")
    assert (lost["id"], lost["status"]) == ("message", "failed")
    assert lost["reason"] == "a published conversation without candidates cannot be judged"
    assert judged["status"] == "scored"


def test_candidates_are_ranked_and_the_pair_of_a_pairs_row_is_compared(cli, files):
    four = [{"image": f"{name}.png"} for name in "abca"]
    target = {"score": 3, "scale": [1, 5]}
    pair = {"status": "kept", "chosen": four[2], "rejected": four[0], "strategy": "rank"}
    generated = {"status": "generated", "policy": "p", "seed": 3, "duplicates": 0}
    source = written(
        files / "in.jsonl",
        [
            sample("pool", candidates=four, **generated),
            {"id": "unmade", "status": "failed", "reason": "out of ink"},
            sample("prompt", candidates=[]),
            sample("pair", candidates=four[:3], **pair),
            sample("broken", candidates=[{"image": f"none{i}.png"} for i in range(3)]),
            sample("scored", target=target),
        ],
    )
    out = files / "out.jsonl"
    assert cli("judge", source, out, "--judge", "scripted:first", "--orders", "1")[0] == 1
    rows = {row["id"]: row for row in read(out)}
    assert all(list(row) == CONTRACT for row in rows.values())
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses == {
        "pool": "ranked",
        "unmade": "failed",
        "prompt": "failed",
        "pair": "preferred",
        "broken": "failed",
        "scored": "scored",
    }
    assert rows["pool"]["order"] == [0, 1, 2, 3]
    assert len(rows["pool"]["scores"]) == 4
    assert "out of ink" in rows["unmade"]["reason"]
    assert rows["prompt"]["reason"] == "a prompt without candidates cannot be judged"
    assert rows["pair"]["winner"] == "first"
    assert "none0.png: cannot be opened" in rows["broken"]["reason"]


def test_criteria_of_a_row_reach_the_judge(cli, files):
    texts = []

    def respond(call):
        texts.append(call.text)
        return chat("Final Score: 3")

    rows = [sample("one", criteria="mind the hands"), sample("two")]
    rows.append(sample("many", candidates=[{"image": "a.png"}] * 3, criteria="mind the feet"))
    with FakeServer(respond) as server:
        source = written(files / "in.jsonl", rows)
        assert cli("judge", source, files / "out.jsonl", "--judge", server.url)[0] == 0
    assert sum("mind the hands" in text for text in texts) == 1
    assert sum("mind the feet" in text for text in texts) == 3


@pytest.mark.parametrize("command", ["judge", "pairs"])
def test_the_input_is_parsed_once_and_every_medium_opened_once(cli, files, command, monkeypatch):
    """The file itself is opened twice: once to count its lines for the bar, once to read it."""
    two = [{"image": f"{i}-{k}.png"} for i in range(9) for k in range(2)]
    for part in two:
        shutil.copy(files / "a.png", files / part["image"])
    rows = [sample(f"q{i}", candidates=two[2 * i : 2 * i + 2]) for i in range(9)]
    source = written(files / "in.jsonl", rows)
    opened, inputs, parsed = Counter(), [], []
    open_image, open_path, read_row = media.open_image, Path.open, io_rows.read_row

    def counting_image(image):
        opened[Path(image.source).name] += 1
        return open_image(image)

    def counting_path(self, *args, **kwargs):
        inputs.append(self.name)
        return open_path(self, *args, **kwargs)

    def counting_row(raw, *args, **kwargs):
        parsed.append(raw)
        return read_row(raw, *args, **kwargs)

    monkeypatch.setattr(media, "open_image", counting_image)
    monkeypatch.setattr(Path, "open", counting_path)
    monkeypatch.setattr(io_rows, "read_row", counting_row)
    assert cli(command, source, files / "out.jsonl", "--judge", "tiny_judge")[0] == 0
    assert len(parsed) == 9
    assert inputs.count("in.jsonl") == 2
    assert opened == {part["image"]: 1 for part in two}


@pytest.mark.parametrize("command", ["judge", "pairs"])
@pytest.mark.parametrize("changed", ["prompt", "picture", "picture appears"])
def test_a_run_that_goes_on_sees_what_changed_under_an_id(cli, files, command, changed):
    two = [{"image": "a.png"}, {"image": "none.png" if "appears" in changed else "b.png"}]
    source = written(files / "in.jsonl", [sample("q", candidates=two), sample("r", candidates=two)])
    out = files / "out.jsonl"
    cli(command, source, out, "--judge", "scripted:first")
    before = out.read_bytes()
    if changed == "prompt":
        written(source, [sample("q", prompt="new", candidates=two), sample("r", candidates=two)])
    else:
        shutil.copy(files / "c.png", files / two[1]["image"])
    code, printed, err = cli(command, source, out, "--judge", "scripted:first")
    assert (code, printed, out.read_bytes()) == (2, "", before)
    assert err.count("\n") == 1
    named = "'q'" if changed == "prompt" else "'q', 'r'"
    assert f"changed under {named}" in err
    assert "give another output file, or delete out.jsonl to begin anew" in err


@pytest.mark.parametrize("judge", ["scripted:perfect", "scripted:first"])
def test_targets_count_for_the_judge_that_answers_them(cli, files, judge):
    target = {"score": 4, "scale": [1, 5]}
    source, out = files / "in.jsonl", files / "out.jsonl"
    codes = [
        cli(
            "judge",
            written(source, [sample("a", target=target | {"score": score})]),
            out,
            "--judge",
            judge,
        )[0]
        for score in (4, 3)
    ]
    assert codes == [0, 2 if judge == "scripted:perfect" else 0]


def test_a_table_that_changed_is_named(cli, files):
    source = written(files / "in.jsonl", [sample("a")])
    for value, code in ((3, 0), (4, 2)):
        (files / "t.csv").write_text(f"id,candidate,value\na,0,{value}\n")
        made, _, err = cli("judge", source, files / "out.jsonl", "--judge", "table:t.csv")
        assert made == code
    assert "out.jsonl was made with other files: t.csv changed" in err


def test_a_second_run_on_one_output_ends_with_2_and_one_line(cli, files):
    source = written(files / "in.jsonl", [sample("a")])
    with locked(files / "out.jsonl"):
        for command in ("judge", "pairs"):
            code, printed, err = cli(
                command, source, files / "out.jsonl", "--judge", "scripted:first"
            )
            assert (code, printed) == (2, "")
            assert "out.jsonl is being written by another run (process " in err
            assert err.count("\n") == 1
    assert cli("judge", source, files / "out.jsonl", "--judge", "scripted:first")[0] == 0


def test_rows_that_failed_while_the_server_was_down_are_asked_again(cli, files):
    up = False

    def respond(_):
        return chat("Final Score: 3") if up else Reply(status=400)

    source = written(files / "in.jsonl", [sample("a"), sample("b"), sample("c", candidates=[])])
    out = files / "out.jsonl"
    with FakeServer(respond) as server:
        run = ("judge", source, out, "--judge", server.url, "--model", "m")
        code, _, err = cli(*run)
        assert code == 1
        assert "failed: a: " in err  # the first of them, with its reason
        assert "3 rows failed; --retry-failed asks them again" in err
        up = True
        assert cli(*run)[0] == 1
        assert {row["status"] for row in read(out)} == {"failed"}
        code, _, err = cli(*run, "--retry-failed")
    assert code == 1
    assert "1 row failed" in err
    assert [(row["id"], row["status"]) for row in read(out)] == [
        ("a", "scored"),
        ("b", "scored"),
        ("c", "failed"),
    ]
