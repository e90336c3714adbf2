"""Commands on a terminal: standard error has our lines alone, and the next command."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest


TINY = ("--judge", "tiny_judge")
PROMPT = {"task": "image_generation", "prompt": "a red circle"}
QUESTION = {"task": "image_understanding", "prompt": "What is it?", "context": [{"image": "a.png"}]}
OURS = (
    r"loading \S+( \d+:\d\d:\d\d)?",
    r"(scoring|generating|aligning|learning from rewards|self-tests|audit|calibrating) .*",
    r"(checking|converting|reading|writing|exporting|microworld|out\.jsonl|out|made\.jsonl) .*",
    r"next: unified-reward .+",
    r"(dpo|grpo): \S+",
    r"\d+ rows?, \d+ bad",
)
"""Lines of this package: bars, stages, the next command."""
SPINNER = re.compile(r"^[\u2800-\u28ff] ")


def on_terminal(*arguments, **env):
    """Exit code, output, and lines of standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    chunks = []

    def read():
        try:
            while chunk := os.read(ours, 1 << 16):
                chunks.append(chunk)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "unified_reward", *map(str, arguments)]
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | env,
    )
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())
    lines = [SPINNER.sub("", line.strip()) for line in re.split(r"[\r\n]+", text)]
    return done.returncode, done.stdout, [line for line in lines if line]


def foreign(lines):
    return [line for line in lines if not any(re.fullmatch(ours, line) for ours in OURS)]


@pytest.fixture
def rows(files):
    """Files of rows in the working folder."""

    def write(name, *rows):
        texts = (json.dumps(row | {"id": str(i)}) for i, row in enumerate(rows))
        (files / name).write_text("\n".join(texts) + "\n")

    pictures = [{"image": name} for name in ("a.png", "b.png", "c.png")]
    answers = [{"text": "a square"}, {"text": "a circle"}]
    first = {"target": {"winner": "first"}}
    write("samples.jsonl", PROMPT | {"candidates": pictures[:1]})
    write("pool.jsonl", PROMPT | {"candidates": pictures})
    write("prompts.jsonl", PROMPT)
    write("answers.jsonl", QUESTION | first | {"candidates": answers})
    write("images.jsonl", PROMPT | first | {"candidates": pictures[:2]})
    return files


@pytest.mark.usefixtures("rows")
def test_a_command_names_the_next_one_on_a_terminal_alone(cli):
    command = ("pairs", "pool.jsonl", "out.jsonl", "--judge", "scripted:random")
    code, _, lines = on_terminal(*command, "--strategy", "random")
    assert code == 0
    assert lines[-1] == "next: unified-reward show out.jsonl"
    assert foreign(lines) == []
    assert any(re.search(r"1/1", line) for line in lines), "a bar"
    code, out, err = cli("show", "out.jsonl")
    assert (code, out, err) == (0, "out.html\n", "")


DPO = ("optim.steps=1", "optim.batch_size=1")
COMMANDS = [
    ("score", "a.png", "b.png", "--prompt", "p", *TINY),
    ("score", "a.mp4", "--prompt", "p", "--judge", "tiny_scalar"),
    ("judge", "samples.jsonl", "out.jsonl", *TINY),
    ("candidates", "prompts.jsonl", "out", "--policy", "tiny_image", "--n", "1"),
    ("dpo", "answers.jsonl", "--policy", "tiny_vlm", "--out", "run", *DPO),
    ("dpo", "images.jsonl", "--policy", "tiny_image", "--out", "run", *DPO),
    ("bench", "--on", "microworld", "--limit", "1", *TINY),
    ("audit", "--data", "samples.jsonl", *TINY),
    ("judge", "samples.jsonl", "out.jsonl", "--judge", "scripted:tie", "--engine", "ray"),
    ("scorers",),
]


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_of_other_libraries_shows_through(command):
    code, out, lines = on_terminal(*command)
    assert code == 0, (out, lines)
    assert foreign(lines) == []


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
def test_a_setting_of_the_user_wins():
    command = ("score", "a.png", "--prompt", "p", *TINY)
    code, _, lines = on_terminal(*command, TRANSFORMERS_VERBOSITY="info")
    assert code == 0
    assert foreign(lines), "transformers tells what it loads"


PYTHON = """
import unified_reward as ur
from unified_reward import policies
from unified_reward.core.extensions import checkpoint_path
judge = ur.open_judge("tiny_judge")
judge.score("a red circle", image="a.png")
policies.load(checkpoint_path("tiny_image"))

import warnings
from transformers.utils import logging
assert logging.get_verbosity() == logging.WARNING
assert logging.is_progress_bar_enabled()
warnings.warn("of the user", FutureWarning)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_python_loads_without_a_word_and_keeps_its_own_warnings():
    env = {name: value for name, value in os.environ.items() if "VERBOSITY" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PYTHON], check=True, capture_output=True, text=True, env=env
    )
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["<string>:13: FutureWarning: of the user"]
