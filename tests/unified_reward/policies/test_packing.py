"""A call is kept as named tensors, and repeated for other latents and batches."""

import json

import pytest
import torch

from unified_reward.core.errors import ModelError
from unified_reward.policies.layouts import Layout, Place
from unified_reward.policies.packing import FORM, Repeat, flatten, pack, strip, unflatten, unpack


SHAPE = (4, 6)
BATCHED = frozenset({("hidden_states",), ("timestep",), ("text",)})
LAYOUT = Layout(("hidden_states",), Place(1), ("timestep",), 1000.0, 0.0, BATCHED)
REPEAT = Repeat(LAYOUT, (7, 6), False, (), True, Place(None), -1.0)


def call(seed, tokens=5, ids=0):
    """Arguments for one sample, with three tokens of a source behind the noisy latents."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(1, 7, 6, generator=generator),
        "timestep": torch.tensor([0.9]),
        "text": torch.randn(1, tokens, 3, generator=generator),
        "ids": torch.full((7, 3), ids),
        "guidance": None,
    }


def packed(*calls):
    rows = [pack(strip(one, LAYOUT, SHAPE), REPEAT) for one in calls]
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_a_call_is_repeated_for_other_latents_and_timesteps():
    first, second = call(0), call(1)
    (found,) = unpack(packed(first, second))
    assert (found.repeat, found.indices) == (REPEAT, [0, 1])
    noisy = torch.randn(2, *SHAPE)
    arguments = found.repeat.arguments(found.arguments, noisy, torch.tensor([500.0, 20.0]))
    assert torch.equal(arguments["hidden_states"][:, :4], noisy)
    behind = torch.cat([first["hidden_states"], second["hidden_states"]])[:, 4:]
    assert torch.equal(arguments["hidden_states"][:, 4:], behind)
    assert torch.equal(arguments["text"], torch.cat([first["text"], second["text"]]))
    assert torch.equal(arguments["timestep"], torch.tensor([0.5, 0.02]))
    assert torch.equal(arguments["ids"], first["ids"])
    assert arguments["guidance"] is None
    assert torch.equal(found.repeat.prediction(noisy, SHAPE), -noisy)


def test_calls_of_other_lengths_or_shared_tensors_do_not_share_a_pass():
    calls = [call(0), call(1, tokens=6), call(2, ids=1), call(3)]
    assert [group.indices for group in unpack(packed(*calls))] == [[0, 3], [1], [2]]


def test_arguments_come_back_from_their_form_and_tensors():
    given = {
        "a": torch.ones(2),
        "b": {"c": [torch.zeros(1), (1, 2.5)], "d": None},
        "e": True,
    }
    form, tensors = flatten(given)
    assert [*tensors] == ["a", "b.c.0"]
    again = unflatten(json.loads(json.dumps(form)), tensors)
    assert again["b"]["c"][1] == (1, 2.5)
    assert again["a"] is given["a"]
    assert again["b"]["c"][0] is given["b"]["c"][0]
    assert (again["b"]["d"], again["e"]) == (None, True)


def test_what_is_no_tensor_and_no_plain_value_is_refused():
    with pytest.raises(ModelError, match=r"gets a Generator as b\.x, which cannot be kept"):
        flatten({"b": {"x": torch.Generator()}})


def test_a_form_is_a_tensor_of_bytes():
    (form,) = packed(call(0))[FORM]
    assert form.dtype is torch.uint8
    assert json.loads(bytes(form.numpy()))["tensors"]["text"] == [1, 5, 3]
