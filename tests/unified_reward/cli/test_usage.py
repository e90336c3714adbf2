"""Wrong usage of every command: exit code 2, one line on standard error, nothing else."""

import signal
import subprocess
import sys
import time

import pytest

from unified_reward import cli as top
from unified_reward.cli import convert, data, scorers, templates


JUDGE = ("--judge", "scripted:tie")
WRONG = {
    "doctor": (["--self-test=maybe"], "--self-test"),
    "score": (["a.png", *JUDGE], "Missing option '--prompt', the text that a.png was made for"),
    "compare": (["a.png", "--prompt", "p", *JUDGE], "compare takes two candidates, not 1"),
    "rank": (["a.png", "--prompt", "p", "--by", "luck", *JUDGE], "'score', 'pairs'"),
    "judge": (["none.jsonl", "out.jsonl", *JUDGE], "none.jsonl"),
    "candidates": (["none.jsonl", "out", "--policy", "tiny_image"], "none.jsonl"),
    "pairs": (["none.jsonl", "out.jsonl", "--margin", "-1", *JUDGE], "--margin"),
    "serve": (["--port", "99999"], "--port"),
    "dpo": (["none.jsonl", "--policy", "tiny_vlm"], "none.jsonl"),
    "grpo": (["none.jsonl", "--policy", "tiny_vlm"], "Missing option '--reward'"),
    "export": (["none.jsonl", "out.json", "--format", "paper"], "'trl'"),
    "show": (["none.jsonl"], "none.jsonl"),
    "bench": (["--on", "luck", *JUDGE], "luck"),
    "bench-diff": (["none"], "Missing argument 'B'"),
    "evaluate": (["none", *JUDGE], "none"),
    "evaluate-diff": (["none", "nothing"], "none"),
    "arena": (["none"], "Missing option '--out'"),
    "active": (["none.jsonl", "--out", "out.txt", *JUDGE], "--out is a .jsonl file"),
    "calibrate": (["none", "none.jsonl", "out"], "none is no folder of a judge"),
    "audit": (["--data", "none.jsonl", *JUDGE], "none.jsonl"),
    "run": (["tiny_judge", "--launch", "fsdp"], "--launch goes with --dry-run"),
    "data": (["luck"], "No such command 'luck'"),
    "data check": (["none.jsonl"], "none.jsonl"),
    "data convert": (["none.jsonl", "none.csv"], "none"),
    "data mix": (["none.yaml", "out"], "none.yaml"),
    "data stats": (["none.jsonl", "--n", "-1"], "--n"),
    "data make": (["luck"], "No such command 'luck'"),
    "data make microworld": (["out", "--task", "luck", "--n", "1"], "'image_generation'"),
    "convert": (["luck"], "No such command 'luck'"),
    "convert llava-qwen": (["none", "out", "--family", "luck"], "no family 'luck'"),
    "scorers": (["luck"], "No such command 'luck'"),
    "scorers check": (["luck", "."], "there is no scorer 'luck'"),
    "templates": (["luck"], "No such command 'luck'"),
    "templates import": (["none"], "none"),
    "experiment": (["luck", "out"], "'gate'"),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", WRONG)
def test_wrong_usage_is_exit_2_and_one_line(cli, command):
    arguments, message = WRONG[command]
    code, out, err = cli(*command.split(), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err


def test_the_table_has_every_command():
    groups = {"convert": convert, "scorers": scorers, "templates": templates}
    inner = {f"data {name}" for name in data.COMMANDS}
    inner |= {
        f"{name} {command.name or command.callback.__name__}"
        for name, group in groups.items()
        for command in group.app.registered_commands
    }
    assert {*top.COMMANDS} | inner <= WRONG.keys()


@pytest.mark.parametrize("command", WRONG)
def test_every_command_has_help_by_both_names(cli, command):
    long, short = (cli(*command.split(), flag) for flag in ("--help", "-h"))
    assert long == short
    assert long[0] == 0
    assert "Usage: unified-reward" in long[1]


def test_exit_codes_stand_under_the_help(cli):
    text = " ".join(cli("-h")[1].split())
    assert all(f"{n}: {meaning}" in text for n, meaning in top.EXIT_CODES.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["judge", "a", "b"], "interrupted; the same command goes on from here"),
        (["bench", "--on", "x", "--out=b"], "interrupted; the same command goes on from here"),
        (["bench", "--on", "x"], "with --out FOLDER the same command would go on"),
        (["score", "a.png"], "interrupted"),
    ],
)
def test_ctrl_c_says_whether_the_command_goes_on(cli, monkeypatch, arguments, message):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(top, "app", interrupted)
    code, out, err = cli(*arguments)
    assert (code, out) == (130, "")
    assert message in err


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on(files):
    rows = '{"task": "image_generation", "prompt": "p"}'
    (files / "prompts.jsonl").write_text(
        "".join(rows.replace("{", f'{{"id": "{i}", ') + "\n" for i in range(12))
    )
    command = [sys.executable, "-m", "unified_reward", "candidates", "prompts.jsonl", "out"]
    command += ["--policy", "tiny_image", "--n", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    made = files / "out" / "candidates.jsonl"
    while not (made.exists() and made.read_text().count("\n") > 1):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "interrupted; the same command goes on from here\n"
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "12 generated\n"
