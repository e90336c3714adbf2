"""The tiny policy that answers: it is taught, written as adapters, and found beside its base."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unified_reward import policies
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.policies import Sampling
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.microworld import policy_prompt
from unified_reward_lab.train.tiny_vlm import TinyVLMTraining, train_tiny_vlm


OPTIM = OptimConfig(steps=2, batch_size=2, accumulate=1, lora_rank=2)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """The folder of the adapters, its base beside it, and the losses."""
    root = tmp_path_factory.mktemp("assets")
    (root / "base").symlink_to(checkpoint_path("tiny_base"))
    losses = train_tiny_vlm(TinyVLMTraining(OPTIM), root / "vlm")
    return root / "vlm", losses


def test_there_is_a_loss_for_every_step(spoken):
    assert [step for step, _ in spoken[1]] == [1, 2]
    assert all(np.isfinite(loss) and loss > 0 for _, loss in spoken[1])


def test_only_adapters_and_the_way_of_sampling_are_written(spoken):
    names = {file.name for file in spoken[0].iterdir()} - {"checkpoints"}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "sampling.json"}
    assert json.loads((spoken[0] / "sampling.json").read_text()) == {
        "temperature": 0.7,
        "max_new_tokens": 48,
    }


def test_the_base_is_named_by_where_it_stands_beside_the_policy(spoken):
    config = json.loads((spoken[0] / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "../base"
    assert config["r"] == 2


@pytest.mark.parametrize("task", [Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING])
def test_the_policy_loads_beside_its_base_and_answers(spoken, task):
    policy = policies.load(spoken[0], device="cpu")
    assert policy.options == Sampling(temperature=0.7, max_new_tokens=48)
    questions = policy_prompt(task, split="test", seed=0, index=0)
    entry, again = policy.sample(questions.prompt, questions.context, [1, 1])
    assert entry == again
    assert isinstance(entry, str)


def test_the_policy_can_be_moved_with_its_base(spoken, tmp_path):
    shutil.copytree(spoken[0], tmp_path / "vlm", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(checkpoint_path("tiny_base"), tmp_path / "base")
    questions = policy_prompt(Task.IMAGE_UNDERSTANDING, split="test", seed=0, index=1)
    config_text = [
        policies.load(entry, device="cpu").sample(questions.prompt, questions.context, [3, 4])
        for entry in (spoken[0], tmp_path / "vlm")
    ]
    assert config_text[0] == config_text[1]


def test_the_adapters_were_moved(spoken):
    """Those that are multiplied last begin at zero."""
    weights = load_file(spoken[0] / "adapter_model.safetensors")
    last = [value for name, value in weights.items() if "lora_B" in name]
    assert last
    assert any(value.abs().max() > 0 for value in last)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_one_seed_teaches_the_same(spoken, tmp_path):
    (tmp_path / "base").symlink_to(checkpoint_path("tiny_base"))
    assert train_tiny_vlm(TinyVLMTraining(OPTIM), tmp_path / "vlm") == spoken[1]


def test_a_policy_without_adapters_is_refused():
    with pytest.raises(ConfigError, match="lora_rank must be above 0"):
        TinyVLMTraining(OptimConfig(steps=1))


def test_a_base_that_is_not_shipped_is_refused():
    with pytest.raises(ConfigError, match="elsewhere is none of tiny_base, "):
        TinyVLMTraining(OPTIM, base="elsewhere")
