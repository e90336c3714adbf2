"""Commands where the modules of the extras are not installed: the base works, the rest says why."""

import json
import subprocess
import sys

import pytest

from tests.fake_server import FakeServer, chat
from unified_reward.core.install import install_command


OF_EXTRAS = (
    *("accelerate", "bitsandbytes", "choix", "datasets", "diffusers", "huggingface_hub"),
    *("krippendorff", "matplotlib", "open_clip", "pandas", "peft", "pyarrow", "pytorch_optimizer"),
    *("ray", "safetensors", "scipy", "sentencepiece", "tokenizers", "torch", "torchvision"),
    *("transformers", "trl"),
)
WITHOUT = """
import importlib.abc, json, sys
hidden = json.loads(sys.argv.pop(1))
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
from unified_reward.cli import main
"""
ONE = WITHOUT + "main()"
MANY = (
    WITHOUT
    + """
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
done = []
for args in json.loads(sys.argv.pop(1)):
    sys.argv[1:], code, out, err = args, 0, StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""
)


def without(hidden, *args):
    """Exit code, output and errors of the command line where some modules are not installed."""
    command = [sys.executable, "-c", ONE, json.dumps(hidden), *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def in_one_process(commands):
    """Run several commands in one process without any extra; the same of each."""
    command = [sys.executable, "-c", MANY, json.dumps(OF_EXTRAS), json.dumps(commands)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return json.loads(done.stdout)


@pytest.fixture
def rows(files):
    """Files of rows of every kind in the working folder."""
    image, other = {"image": "a.png"}, {"image": "b.png"}
    base = {"task": "image_generation", "prompt": "p"}
    pool = base | {"id": "x", "candidates": [image, other, {"image": "c.png"}]}
    target = {"score": 3, "scale": [1, 5]}
    (files / "pool.jsonl").write_text(json.dumps(pool) + "\n")
    (files / "samples.jsonl").write_text(
        json.dumps(base | {"id": "s", "candidates": [image], "target": target}) + "\n"
    )
    (files / "own.csv").write_text(
        "prompt,image,annotator,score\na,a.png,x,1\na,a.png,y,1\nb,b.png,x,5\nb,b.png,y,5\n"
    )
    return files


BASE = [
    ["--help"],
    ["score", "a.png", "--prompt", "p", "--judge", "scripted:first"],
    ["rank", "a.png", "b.png", "--prompt", "p", "--judge", "scripted:first"],
    ["judge", "samples.jsonl", "judged.jsonl", "--judge", "scripted:first"],
    ["data", "check", "samples.jsonl", "--decode"],
    ["data", "convert", "samples.jsonl", "packed.tar"],
    ["data", "stats", "samples.jsonl"],
    ["pairs", "pool.jsonl", "pairs.jsonl", "--judge", "scripted:random"],
    ["show", "pool.jsonl"],
]


@pytest.mark.usefixtures("rows")
def test_the_base_runs_without_any_extra():
    done = in_one_process(BASE)
    assert [(args, err) for args, (code, _, err) in zip(BASE, done, strict=True) if code] == []


@pytest.mark.usefixtures("rows")
def test_a_server_is_asked_without_any_extra():
    arguments = ("compare", "a.png", "b.png", "--prompt", "p", "--json", "--judge")
    with FakeServer(lambda _: chat("Image 1 is better.")) as server:
        code, out, err = without(OF_EXTRAS, *arguments, server.url)
    assert (code, err) == (0, "")
    assert json.loads(out)["orders"][0]["winner"] == "first"


@pytest.mark.slow
def test_bars_and_warnings_of_other_libraries_do_not_show(rows):
    prompt = {"id": "x", "task": "image_generation", "prompt": "a red circle"}
    (rows / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    arguments = ("candidates", "prompts.jsonl", "out", "--policy", "tiny_image", "--n", "1")
    code, out, err = without([], *arguments)
    assert (code, out) == (0, "1 generated\n")
    assert [line.split()[0] for line in err.splitlines()] == ["generating"]


ANNOTATED = ("own.csv", "--source", "annotated.image_generation.score")
SCRIPTED = ("--judge", "scripted:random")
NEEDED = [
    ("local", ["score", "a.png", "--prompt", "p", "--judge", "tiny_judge"]),
    ("local", ["score", "a.png", "--prompt", "p", "--judge", "org/name"]),
    ("local", ["score", "a.png", "--prompt", "p", "--judge", "imagereward:weights"]),
    ("local", ["scorers"]),
    ("local", ["scorers", "check", "pickscore", "."]),
    ("local", ["convert", "llava-qwen", ".", "out", "--dry-run"]),
    ("local", ["candidates", "pool.jsonl", "out", "--policy", "tiny_vlm"]),
    ("diffusion", ["candidates", "pool.jsonl", "out", "--policy", "tiny_image"]),
    ("train", ["dpo", "pool.jsonl", "--policy", "tiny_vlm"]),
    ("train", ["run", "llava_onevision_7b", "--dry-run"]),
    ("bench", ["data", "convert", "samples.jsonl", "packed.parquet"]),
    ("bench", ["data", "stats", *ANNOTATED]),
    ("bench", ["pairs", "pool.jsonl", "out", *SCRIPTED, "--strategy", "tournament"]),
    ("ray", ["judge", "samples.jsonl", "out.jsonl", *SCRIPTED, "--engine", "ray"]),
]


@pytest.mark.usefixtures("rows")
def test_a_missing_module_is_wrong_usage_that_names_the_extra():
    done = in_one_process([args for _, args in NEEDED])
    for (name, args), (code, out, err) in zip(NEEDED, done, strict=True):
        assert (code, out) == (2, ""), (args, err)
        assert f" is not installed; this needs the extra [{name}]" in " ".join(err.split()), args
        assert install_command(name) in err
        assert "Traceback" not in err
