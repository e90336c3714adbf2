"""Judges on a device that is not the CPU: every tensor is made where the model is."""

from dataclasses import replace

import pytest
import torch

from tests.pretended_cuda import pretended_cuda
from tests.tolerance import near
from tests.unified_reward.backends.test_attention import REQUESTS
from unified_reward.backends.hf_vlm import VLM, load_vlm
from unified_reward.core.requests import Request


IMAGE = REQUESTS[0].images[0]
GENERATED = [
    Request(("rate it", IMAGE), max_new_tokens=3),
    Request((IMAGE, "rate it"), ("1", "10"), verdict_prefix="a", max_new_tokens=3),
]


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """Here every model that is loaded is proven."""


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_a_judge_on_another_device_has_the_same_ways_and_answers(name, checkpoints):
    vlm = load_vlm(checkpoints[name], device="cpu")
    wanted, ways = vlm.generate([*REQUESTS, *GENERATED]), vlm.ways
    with pretended_cuda(vlm.model):
        there = VLM(vlm.model, vlm.chat, name="there", batch_size=16)
        assert there.describe()["device"] == "cuda:0"
        found = there.generate([*REQUESTS, *GENERATED])
    assert replace(there.ways, differences={}) == replace(ways, differences={})
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    for answer, plain in zip(found, wanted, strict=True):
        assert answer.choice_logprobs == near(plain.choice_logprobs)


def test_a_tensor_on_the_wrong_device_is_an_error():
    layer = torch.nn.Linear(2, 2)
    with pretended_cuda(layer), pytest.raises(RuntimeError, match="all tensors to be on the same"):
        layer(torch.zeros(1, 2))
    assert layer(torch.zeros(1, 2)).device.type == "cpu"
