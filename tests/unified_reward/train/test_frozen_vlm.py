"""Frozen weights of a vision-language model in bfloat16: what is learned, merged and written."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

import unified_reward as ur
from tests.architectures import training
from tests.unified_reward.train import test_grpo_answers as answers
from unified_reward.core.errors import ConfigError
from unified_reward.train.judge import JudgeTraining
from unified_reward.train.optim import OptimConfig


HALF = {"lora_rank": 2, "dtype": "bfloat16"}
LAYERS = 16
"""Roundings of a number that follow each other in a tiny model."""


def stored(folder):
    """Weights of the files of a folder, by name."""
    return {
        name: weight
        for file in sorted(folder.glob("*.safetensors"))
        for name, weight in load_file(file).items()
    }


def assert_merged_in_float32(base, out):
    """The base rounded once to bfloat16, and changes that bfloat16 would round away."""
    before, after, adapters = map(stored, (base, out, out / "adapter"))
    assert {weight.dtype for weight in (*after.values(), *adapters.values())} == {torch.float32}
    rounded = {name: weight.bfloat16().float() for name, weight in before.items()}
    moved = [name for name in before if not torch.equal(after[name], rounded[name])]
    assert moved
    assert all(not torch.equal(after[name], after[name].bfloat16().float()) for name in moved)


@pytest.mark.parametrize(
    ("name", "head"), [("qwen2_5_vl", "generative"), ("llava_onevision", "scalar")]
)
def test_a_judge_learns_in_bfloat16_what_it_learns_in_float32(checkpoints, name, head, tmp_path):
    losses = {
        dtype: training.train(
            checkpoints[name], name, tmp_path / dtype, lora_rank=2, head=head, dtype=dtype
        )
        for dtype in ("float32", "bfloat16")
    }
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=LAYERS * 2**-8)
    half = tmp_path / "bfloat16"
    if head == "generative":
        assert_merged_in_float32(checkpoints[name], half)
    judge = ur.open_judge(half, device="cpu")
    (score, _) = judge.ask([each.sample for each in training.examples(name)])
    assert isinstance(score, ur.Scored)


def test_a_policy_is_aligned_on_bfloat16(checkpoints, tmp_path):
    name, out = "qwen3_vl", tmp_path / "policy"
    report = training.align(checkpoints[name], name, out, **HALF)
    assert (report["dtype"], report["margin"]) == ("bfloat16", [0.0]), "adapters begin as nothing"
    exact = training.align(checkpoints[name], name, tmp_path / "exact", lora_rank=2)
    assert exact["dtype"] == "float32"
    ((_, loss),), ((_, wanted),) = report["losses"], exact["losses"]
    assert loss == pytest.approx(wanted, rel=LAYERS * 2**-8)
    assert_merged_in_float32(checkpoints[name], out)


def test_a_policy_learns_from_rewards_on_bfloat16(tmp_path):
    config = dataclasses.replace(answers.grpo(batch_size=4), dtype="bfloat16")
    report = answers.learn(answers.written(tmp_path), tmp_path / "out", config, len=answers.length)
    assert report["dtype"] == "bfloat16"
    assert report["failed"] == [0.0]
    for folder in ("adapter", "policy"):
        assert {each.dtype for each in stored(tmp_path / "out" / folder).values()} == {
            torch.float32
        }


def test_half_precision_needs_adapters():
    with pytest.raises(ConfigError, match="in bfloat16 need adapters"):
        JudgeTraining(OptimConfig(steps=1), dtype="bfloat16")
