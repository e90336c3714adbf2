"""Alignments that are killed, break off, are split over passes and processes, or follow another."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.unified_reward.train import aligned
from tests.unified_reward.train.aligned import align, config, losses
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.train.dpo_diffusion import DPOModel


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return aligned.source("pictures", tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return aligned.source("wan", tmp_path_factory.mktemp("wan"))


def at_pass(monkeypatch, number, change):
    """The loss of one pass, counted from 1, is changed."""
    loss, passes = DPOModel.loss, itertools.count(1)

    def changed(self, *given):
        result = loss(self, *given)
        return change(self, result) if next(passes) == number else result

    monkeypatch.setattr(DPOModel, "loss", changed)


def kill(*_):
    raise KilledError


def weights_at(out):
    """For all parts that are saved, by place and name."""
    files = [
        file
        for file in out.rglob("*.safetensors")
        if "checkpoints" not in file.relative_to(out).parts
    ]
    assert files
    return {
        (str(file.relative_to(out)), name): value
        for file in files
        for name, value in load_file(file).items()
    }


def is_same(item, other):
    return item.keys() == other.keys() and all(
        torch.equal(item[name], other[name]) for name in item
    )


@pytest.mark.parametrize(("rank", "killed_at", "left"), [(0, 3, None), (2, 6, 2), (0, 10, 4)])
def test_a_killed_run_ends_as_if_it_had_not_been(
    rank, killed_at, left, source, tmp_path, monkeypatch
):
    """Five steps of two passes, kept after the second and the fourth."""
    options = config(5, optim={"accumulate": 2, "save_every": 2, "lora_rank": rank, "warmup": 0.4})
    whole, _ = align(source, tmp_path / "whole", options)
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        at_pass(patch, killed_at, kill)
        with pytest.raises(KilledError):
            align(source, out, options)
    checkpoints = out / "checkpoints"
    kept = [item.name for item in checkpoints.glob("state-*")]
    assert kept == ([f"state-00000{left}.pt"] if left else [])
    (checkpoints / "state-000009.part").write_bytes(b"torn")
    (checkpoints / "encoded" / "torn.part").write_bytes(b"torn")
    calls = []
    with monkeypatch.context() as patch:
        at_pass(patch, 0, kill)
        counted = DPOModel.loss
        patch.setattr(DPOModel, "loss", lambda *item: calls.append(1) or counted(*item))
        again, _ = align(source, out, options)
    assert len(calls) == 2 * (5 - (left or 0)), "steps that are kept are not done again"
    assert again == whole
    assert is_same(weights_at(out), weights_at(tmp_path / "whole"))


def test_a_state_of_another_version_is_refused(source, tmp_path):
    options = config(2, optim={"save_every": 1})
    align(source, tmp_path, options)
    (path,) = (tmp_path / "checkpoints").glob("state-*.pt")
    state = torch.load(path, weights_only=True)
    state["weights"] = {name.partition(".")[2]: w for name, w in state["weights"].items()}
    torch.save(state, path)
    with pytest.raises(ConfigError, match="has weights of other names, as of another version"):
        align(source, tmp_path, options)


def test_a_run_that_was_done_is_written_again_without_a_step(source, tmp_path, monkeypatch):
    options = config(2, optim={"save_every": 1})
    first, _ = align(source, tmp_path, options)
    before = weights_at(tmp_path)
    at_pass(monkeypatch, 1, kill)
    second, _ = align(source, tmp_path, options)
    assert second == first
    assert is_same(weights_at(tmp_path), before)


def test_the_same_seed_gives_the_same_run_and_another_does_not(source, tmp_path):
    runs = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 20_260_101)):
        torch.manual_seed(len(runs))
        options = config(2, optim={"lora_rank": 2, "seed": seed})
        runs[name] = losses(align(source, tmp_path / name, options)[0])
    assert runs["one"] == runs["same"] != runs["other"]
    assert is_same(weights_at(tmp_path / "one"), weights_at(tmp_path / "same"))


@pytest.mark.parametrize("kind", ["source", "clips"])
def test_passes_of_a_step_count_as_one_large_pass(kind, tmp_path, request):
    folder = request.getfixturevalue(kind)
    runs = [
        align(
            folder,
            tmp_path / str(batch),
            config(4, optim={"batch_size": batch, "accumulate": 4 // batch}, beta=10.0),
        )[0]
        for batch in (4, 2, 1)
    ]
    assert min(map(abs, runs[0]["margin"][1:])) > 1e-4
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=1e-5)
        assert other["margin"] == pytest.approx(runs[0]["margin"], abs=1e-5)


def no_number(_, result):
    return result | {"loss": result["loss"] * float("nan")}


def no_gradient(alignment, result):
    """The root of 0 is a number, its slope is none."""
    weight = next(iter(alignment.trained.values())).flatten()[0]
    return result | {"loss": result["loss"] + (weight * 0).sqrt()}


@pytest.mark.parametrize("change", [no_number, no_gradient])
def test_a_step_without_numbers_ends_it_and_leaves_the_last_good_state(
    change, source, tmp_path, monkeypatch
):
    at_pass(monkeypatch, 3, change)
    with pytest.raises(ModelError) as caught:
        align(source, tmp_path, config(4, optim={"save_every": 1}))
    (state,) = (tmp_path / "checkpoints").glob("state-*.pt")
    assert state.name == "state-000002.pt"
    assert str(caught.value) == (
        f"the loss or gradient of step 3 is not finite; the last checkpoint is {state}; "
        "use a lower learning rate"
    )
    result = torch.load(state, weights_only=True)
    assert all(item.isfinite().all() for item in result["weights"].values())
    assert len(result["history"]["loss"]) == 2
    assert not (tmp_path / "unet").exists()


def test_without_states_the_message_says_how_to_have_some(source, tmp_path, monkeypatch):
    at_pass(monkeypatch, 1, no_number)
    with pytest.raises(ModelError, match="step 1 is not finite; no checkpoint was saved"):
        align(source, tmp_path, config(2))


def test_the_precision_does_not_depend_on_who_trained_before(source, tmp_path):
    """In bfloat16 it starts as its reference too; weights stay in full precision."""
    Accelerator(mixed_precision="no", cpu=True)
    try:
        options = config(2, optim={"lora_rank": 2}, precision="bf16")
        half = losses(align(source, tmp_path / "half", options)[0])
        full = losses(align(source, tmp_path / "full", config(2, optim={"lora_rank": 2}))[0])
    finally:
        AcceleratorState._reset_state()
    assert half[0] == full[0]
    assert half[1] != full[1]
    kept = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {item.dtype for item in kept.values()} == {torch.float32}


SCRIPT = """
import json, sys
from pathlib import Path
from tests.unified_reward.train.aligned import align, config

optim = {"batch_size": 2, "lora_rank": int(sys.argv[3]), "save_every": 2, "lr": 1e-2}
how = config(3, optim=optim, beta=10.0)
report, told = align(Path(sys.argv[1]), Path(sys.argv[2]), how)
sys.stdout.write("REPORT" + json.dumps([report, told]) + "\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_two_processes_are_one_of_twice_the_batch(rank, source, tmp_path):
    folder = tmp_path / "it"
    aligned.source("pictures", folder)
    (folder / "rejected-5-0.png").unlink()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    torchrun = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, script, folder, tmp_path / "two", str(rank)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = [
        json.loads(item[6:]) for item in done.stdout.splitlines() if item.startswith("REPORT")
    ]
    assert len(result) == 2
    options = config(3, optim={"batch_size": 4, "lora_rank": rank, "lr": 1e-2}, beta=10.0)
    item, _ = align(folder, tmp_path / "one", options)
    for report, _ in result:
        assert [loss for _, loss in report["losses"]] == pytest.approx(losses(item), abs=1e-5)
        assert report["margin"] == pytest.approx(item["margin"], abs=1e-5)
        assert report["pairs"] == 5
    assert min(map(abs, item["margin"][1:])) > 1e-4
    assert sorted(len(answer) for _, answer in result) == [0, 1], "only the first process tells"
    assert weights_at(tmp_path / "two").keys() == weights_at(tmp_path / "one").keys()
