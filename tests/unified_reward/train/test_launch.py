"""One recipe under the launchers of torch and of accelerate, on a CPU."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from unified_reward.backends.hf_vlm import load_vlm


pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(checkpoints, tmp_path):
    judge = {
        "base": str(checkpoints["qwen3_vl"]),
        "data": "microworld",
        "family": "compact",
        "frames": 2,
        "processes": 2,
        "optim": {"steps": 2, "batch_size": 2, "accumulate": 1, "save_every": 2},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "judge": judge}))
    return file


def launched(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_one_judge(out):
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert [step for step, _ in report["judge"]["losses"]] == [1, 2]
    assert len(list(out.rglob("unified_reward.json"))) == 1
    load_vlm(out / "judge", device="cpu")


def test_two_processes_train_one_judge(recipe, tmp_path):
    torchrun = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    launched(*torchrun, "-m", "unified_reward", "run", str(recipe))
    check_one_judge(tmp_path / "run")
    states = (tmp_path / "run" / "judge" / "checkpoints" / "checkpoint-2").glob("rng_state_*.pth")
    assert sorted(item.name for item in states) == ["rng_state_0.pth", "rng_state_1.pth"]


def test_accelerate_launches_the_same_recipe(recipe, tmp_path):
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1")
    launched(*launch, "-m", "unified_reward", "run", str(recipe))
    check_one_judge(tmp_path / "run")
    assert (tmp_path / "run" / "judge" / "unified_reward.json").is_file()
