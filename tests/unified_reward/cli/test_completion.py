"""Completion in a shell: commands, options and values, without torch."""

import json
import os
import subprocess
import sys

import pytest


PROGRAM = """
import json, os, sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from unified_reward.cli import main
sys.argv[0], found = "unified-reward", {}
for line in json.loads(sys.argv.pop()):
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    os.environ["_TYPER_COMPLETE_ARGS"] = line
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        main()
    found[line] = out.getvalue().splitlines()
print(json.dumps([found, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
VALUES = {
    "unified-reward ": {"score", "pairs", "doctor", "data", "experiment"},
    "unified-reward data ": {"check", "convert", "mix", "stats", "make"},
    "unified-reward dpo --": {"--policy", "--out", "--json", "--help"},
    "unified-reward pairs x y --strategy ": {"rank+sift", "tournament", "adaptive"},
    "unified-reward export x y --format ": {"trl", "diffusers", "parquet"},
    "unified-reward run ": {"qwen3_vl_8b", "quickstart"},
    "unified-reward bench --on ": {"genai_bench_image", "microworld"},
    "unified-reward score --judge ": {"tiny_judge", "scripted:tie", "pickscore:"},
    "unified-reward score --family ": {"native", "unifiedreward-think"},
    "unified-reward candidates x y --policy ": {"tiny_vlm", "tiny_image", "tiny_video"},
    "unified-reward data check x --source ": {"records"},
    "unified-reward scorers check pi": {"pickscore"},
}


def complete(lines, shell="bash"):
    """Completions of the last word of each line, and the modules imported for all of them."""
    env = {**os.environ, "_UNIFIED_REWARD_COMPLETE": f"complete_{shell}"}
    env |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    assert done.stderr == ""
    found, modules = json.loads(done.stdout)
    return found, set(modules)


def test_bash_completes_commands_options_and_values_without_torch():
    found, modules = complete([*VALUES])
    lacking = {line: wanted - {*found[line]} for line, wanted in VALUES.items()}
    assert not any(lacking.values()), lacking
    assert not modules & {"torch", "transformers", "scipy", "pyarrow", "ray", "diffusers"}


def test_completing_a_command_imports_no_command():
    _, modules = complete(["unified-reward sc"])
    assert not modules & {"numpy", "httpx", "av", "PIL"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_the_same(shell):
    found, _ = complete(["unified-reward sco"], shell)
    assert "Score images or videos for a prompt" in " ".join(*found.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(cli, monkeypatch, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, err = cli("--show-completion", shell)
    assert (code, err) == (0, "")
    assert "_UNIFIED_REWARD_COMPLETE" in out.upper()
