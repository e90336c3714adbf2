"""Training by rewards in two processes, which is training in one but for rounding."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from safetensors.torch import load_file

from tests.unified_reward.train.rewarded import brightness, config, pictures, train, written
from unified_reward.core.errors import ConfigError
from unified_reward.train import policy_updates
from unified_reward.train.policy_losses import policy_loss


SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.unified_reward.train import test_grpo_processes as cases

folder, rank, results = Path(sys.argv[1]), int(os.environ["RANK"]), {}
for name in cases.RUNS:
    results[name] = cases.run(folder, folder / "two", name)
for name, (reward, *_) in cases.FAILURES.items():
    try:
        cases.fail(folder, name, reward, is_second=rank == 1)
    except Exception as error:
        results[name] = [type(error).__name__, str(error)]
(folder / f"results-{rank}.json").write_text(json.dumps(results))
"""


def failing(samples):
    """The first prompt gets no rewards, another one lacks a reward."""
    values = brightness(samples)
    names = [sample.id for sample in samples]
    last = {name: i for i, name in enumerate(names)}
    return [
        None if name == "p0" or (name == "p3" and last[name] == i) else value
        for i, (name, value) in enumerate(zip(names, values, strict=True))
    ]


OPTIM = config(optim={"lr": 1e-3, "batch_size": 2}).optim


def options(**changes):
    shape = {"prompts_per_step": 3, "updates": 2, "held_out": 1, "held_out_every": 2}
    return replace(config(**shape), optim=OPTIM, **changes)


RUNS = {
    "grpo": (options(beta=0.01), brightness),
    "nft": (options(algorithm="nft", ema_decay=0.5), brightness),
    "failing": (options(async_reward=True), failing),
}


def broken(_):
    raise ZeroDivisionError("a reward broke")


def poisoned(samples):
    """The next loss is not a number."""

    def loss(*given):
        terms = policy_loss(*given)
        return terms._replace(loss=terms.loss * math.nan)

    policy_updates.policy_loss = loss
    return brightness(samples)


FAILURES = {
    "broken": (
        broken,
        "RewardFunctionError: .* a reward broke .*; resume from",
        "RewardFunctionError: .* a reward broke .* .in process 1.; resume from",
    ),
    "poisoned": (poisoned, *["ModelError: the loss or gradient of step 2 is not finite; "] * 2),
}
"""A reward of the second process in its second step, and the errors of both processes."""


def fail(folder, name, act, *, is_second):
    calls = []

    def reward(samples):
        calls.append(1)
        return act(samples) if is_second and len(calls) == 2 else brightness(samples)

    settings = replace(RUNS["grpo"][0], held_out=0, optim=replace(OPTIM, save_every=1))
    train(folder / "policy", folder / "prompts.jsonl", folder / name, settings, reward)


def run(folder, out, name):
    settings, reward = RUNS[name]
    return train(folder / "policy", folder / "prompts.jsonl", out / name, settings, reward)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder, and the results of both processes."""
    folder = tmp_path_factory.mktemp("launched")
    pictures(folder / "policy")
    written(folder / "prompts.jsonl")
    (folder / "script.py").write_text(SCRIPT, "utf-8")
    torchrun = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, folder / "script.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"results-{i}.json").read_text()) for i in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS])
def test_two_processes_train_as_one_does(launched, tmp_path, name):
    folder, (first, second) = launched
    (report, log), (other, silence) = first[name], second[name]
    assert report == other
    single, lines = run(folder, tmp_path, name)
    assert (log, silence) == (lines, [])
    assert report.keys() == single.keys()
    # Terms of size 1 are added in another order; a ratio may lie on either side of its bound.
    close = {"clipped": {"abs": 0.1}, "losses": {"rel": 1e-3, "abs": 1e-6}}
    assert report["rewards"].keys() == single["rewards"].keys() == {"reward"}
    for figure, values in single.items():
        if isinstance(values, dict):
            continue
        pairs = zip(np.ravel(report[figure]), np.ravel(values), strict=True)
        for value, expected in pairs:
            assert value == pytest.approx(expected, **close.get(figure, {"rel": 1e-3}))
    file = "unet/diffusion_pytorch_model.safetensors"
    start, alone, divided = (
        load_file(at / file)
        for at in (folder / "policy", tmp_path / name / "policy", folder / "two" / name / "policy")
    )
    moved = max((alone[key] - start[key]).abs().max() for key in alone)
    apart = max((alone[key] - divided[key]).abs().max() for key in alone)
    assert apart < 1e-2 * moved


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAILURES])
def test_an_error_in_one_process_stops_both_with_the_last_good_state(launched, name):
    folder, (first, second) = launched
    _, own, others = FAILURES[name]
    assert re.match(own, ": ".join(second[name]))
    assert re.match(others, ": ".join(first[name]))
    (state,) = (folder / name / "checkpoints").glob("state-*")
    assert state.name == "state-000001.pt"
    assert str(state) in first[name][1]


def test_fewer_groups_than_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(ConfigError, match="prompts_per_step is 2, of which 3 processes need"):
        train(tmp_path, tmp_path, tmp_path, config())
