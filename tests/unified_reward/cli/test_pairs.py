"""``unified-reward pairs``: one row a prompt, whatever is wrong in the file or kills the run."""

import importlib.util
import json
import resource
import signal
import subprocess
import sys
import threading
import zlib
from contextlib import suppress

import pytest

from tests.fake_server import FakeServer, chat
from tests.unified_reward.cli.test_judge_file import _wait_for
from tests.unified_reward.pairs.candidate_files import draw_pools, read_rows, write_rows
from unified_reward.cli import main


PROMPTS = 10
"""Two whole chunks and a half."""
IN_FOURS = (
    "import unified_reward.cli.pairs as p; p.CHUNK = 4; import unified_reward.cli as c; c.main()"
)


@pytest.fixture(autouse=True)
def _chunks_of_four(monkeypatch):
    monkeypatch.setattr("unified_reward.cli.pairs.CHUNK", 4)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return draw_pools(tmp_path_factory.mktemp("drawn"), PROMPTS, 4)


@pytest.fixture(scope="module")
def whole(pools):
    """The rows of a run that nobody stopped."""
    out = pools.with_name("whole.jsonl")
    command = ["unified-reward", "pairs", str(pools), str(out), "--judge", "tiny_judge"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unified_reward.cli.pairs.CHUNK", 4)
        patch.setattr(sys, "argv", command)
        with suppress(SystemExit):
            main()
    return out.read_bytes()


@pytest.mark.slow
def test_rows_stand_in_the_order_of_the_prompts_and_paths_start_at_their_file(cli, pools, whole):
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(PROMPTS)]
    kept = [row for row in rows if row["status"] == "kept"]
    assert kept
    for row in kept:
        assert (pools.parent / row["chosen"]["image"]).is_file()
        assert row["chosen_score"] > row["rejected_score"]
        assert row["chosen"]["image"] in [one["image"] for one in row["candidates"]]


@pytest.mark.parametrize("left", [0, 900, 12_001, -1])
def test_a_torn_file_goes_on_to_the_same_bytes(cli, pools, whole, left):
    out = pools.with_name("whole.jsonl")
    out.write_bytes(whole[:left])
    assert cli("pairs", pools, out, "--judge", "tiny_judge")[0] == 0
    assert out.read_bytes() == whole


def test_rows_lost_in_the_middle_of_a_chunk_are_made_again_in_the_same_batch(cli, pools, whole):
    out = pools.with_name("whole.jsonl")
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]))
    assert cli("pairs", pools, out, "--judge", "tiny_judge")[0] == 0
    assert out.read_bytes() == whole


def test_a_full_disk_is_told_and_loses_nothing(cli, pools, whole):
    out = pools.with_name("whole.jsonl")
    out.write_bytes(whole[: whole.index(b"\n") + 1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
        code, _, err = cli("pairs", pools, out, "--judge", "tiny_judge")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "whole.jsonl cannot be written: File too large" in err
    assert whole.startswith(out.read_bytes())
    assert out.read_bytes().count(b"\n") >= 1
    assert cli("pairs", pools, out, "--judge", "tiny_judge")[0] == 0
    assert out.read_bytes() == whole


def test_a_killed_run_goes_on_to_what_an_uninterrupted_one_gives(cli, pools, tmp_path):
    """The server holds back its answers once the first chunk is written, until the kill."""
    killed = threading.Event()
    out, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"

    def respond(call):
        if out.exists() and out.stat().st_size:
            killed.wait(60)
        place = zlib.crc32(call.text.encode()) % 3
        sentence = ["Image 1 is better.", "Both images are equally good.", "Image 2 is better."]
        return chat(f"Final Score: {place + 1}" if "Final Score" in call.text else sentence[place])

    with FakeServer(respond) as server:
        command = [sys.executable, "-c", IN_FOURS, "pairs", pools, out]
        run = subprocess.Popen(
            [*command, "--judge", server.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") == 4)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        killed.set()
        codes = {cli("pairs", pools, path, "--judge", server.url)[0] for path in (out, other)}
    assert len(codes) == 1
    assert out.read_bytes() == other.read_bytes()
    assert [row["id"] for row in read_rows(out)] == [f"p{i}" for i in range(PROMPTS)]


@pytest.mark.parametrize(
    "other", [["--seed", "1"], ["--strategy", "score"], ["--orders", "1"], ["--margin", "0.5"]]
)
def test_a_run_begun_otherwise_is_not_gone_on_with(cli, pools, tmp_path, other):
    out = tmp_path / "out.jsonl"
    assert cli("pairs", pools, out, "--judge", "scripted:first")[0] == 0
    before = out.read_bytes()
    code, _, err = cli("pairs", pools, out, "--judge", "scripted:first", *other)
    assert code == 2
    assert f"{other[0].removeprefix('--')} was " in err
    assert out.read_bytes() == before


def test_a_run_that_made_no_row_binds_nobody(cli, pools, tmp_path):
    out = tmp_path / "out.jsonl"
    assert cli("pairs", pools, out, "--judge", "no such judge")[0] == 2
    assert cli("pairs", pools, out, "--judge", "scripted:first")[0] == 0


def test_a_real_id_that_looks_like_a_line_loses_no_row(cli, pools, tmp_path):
    good, *_ = read_rows(pools)
    source = write_rows(tmp_path / "candidates.jsonl", [good | {"id": "line 2", "candidates": []}])
    with source.open("a") as file:
        file.write("{broken\n")
    out = tmp_path / "out.jsonl"
    assert cli("pairs", source, out, "--judge", "scripted:first")[0] == 1
    assert [row["id"] for row in read_rows(out)] == ["line 2", "line 2 (7afab649)"]


def test_rows_that_cannot_be_used_are_failed_rows_and_the_others_go_on(cli, pools, tmp_path):
    good, *_ = read_rows(pools)
    rows = [
        {**good, "candidates": [{"text": "no picture"}] * 3},
        good | {"id": "twice", "candidates": []},
        good | {"id": "twice"},
        good | {"id": "typo", "promt": "x"},
        {"id": "unmade", "status": "failed", "reason": "out of ink"},
    ]
    source = write_rows(tmp_path / "candidates.jsonl", rows)
    with source.open("a") as file:
        file.write("{broken\n")
    out = tmp_path / "out.jsonl"
    code, printed, _ = cli("pairs", source, out, "--judge", "scripted:first", "--json")
    assert code == 1
    assert printed == out.read_text()
    made = read_rows(out)
    ids = ["line 1", "twice", "line 3", "line 4", "unmade", "line 6"]
    assert [row["id"] for row in made] == ids
    assert {row["status"] for row in made} == {"failed"}
    message = " | ".join(row["reason"] for row in made)
    for reason in ("not text", "0 of 0 candidates", "duplicate id", "promt", "out of ink"):
        assert reason in message
    assert all(list(row) == list(made[0]) for row in made)


def test_the_perfect_judge_is_refused_since_candidates_have_no_targets(cli, pools, tmp_path):
    code, _, err = cli("pairs", pools, tmp_path / "out.jsonl", "--judge", "scripted:perfect")
    assert code == 2
    assert "needs targets, which are not known here" in err


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
def test_on_ray_the_rows_are_those_of_a_local_run(cli, pools, whole, tmp_path):
    import ray

    rows = [
        {**row, "candidates": row["candidates"][: 1 + i % 2]}
        for i, row in enumerate(read_rows(pools))
    ]
    samples = write_rows(pools.with_name("samples.jsonl"), rows)
    try:
        # Beside the local run: the paths in the rows start at their own folder.
        out = pools.with_name("ray.jsonl")
        tiny = ("--judge", "tiny_judge", "--engine")
        assert cli("pairs", pools, out, *tiny, "ray", "--workers", 2)[0] == 0
        assert out.read_bytes() == whole
        local, distributed = tmp_path / "local", tmp_path / "ray"
        for path in (local, distributed):
            assert cli("judge", samples, path, *tiny, path.name)[0] == 0
        assert local.read_bytes() == distributed.read_bytes()
        assert len(read_rows(local)) == PROMPTS
    finally:
        ray.shutdown()
