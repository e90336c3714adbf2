"""Faults that make a fast way of asking wrong: each is seen, and a slower way is right."""

import copy
import dataclasses
import sys

import numpy as np
import pytest
import torch
from PIL import ImageOps
from transformers import DynamicCache

from tests.architectures import ARCHITECTURES
from tests.unified_reward.backends.test_architectures import assert_equal, requests
from unified_reward.backends import chat_template, choices, hf_vlm, image_features, passes
from unified_reward.backends.chat import Chat
from unified_reward.backends.equivalence import TOLERANCE, Ways, prove
from unified_reward.backends.image_features import ImageEncoder
from unified_reward.backends.prefixes import Worth
from unified_reward.core.verdicts import Failed


pytestmark = pytest.mark.numeric

RECURRENT = ("qwen3_5", "qwen3_5_moe", "minicpmv4_6", "lfm2_vl")
WINDOWS = ("gemma3", "gemma4", "gemma4_moe", "aya_vision", "cohere2_vision")
TYPES = ("gemma3", "gemma4_moe", "molmo2", "qwen2_5_vl", "qwen3_vl")
GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
GRIDS += ("glm4v", "glm46v", "glm4v_moe")
THINKING = ("qwen3_5", "qwen3_5_moe", "glm46v", "glm4v_moe", "kimi_k25")
NOT_ENCODED = ("minicpmv4_6", "ernie4_5_vl_moe", "idefics2", "mllama", "hunyuan_vl")
ENCODED = tuple(name for name in ARCHITECTURES if name not in NOT_ENCODED)
PADDED = tuple(name for name in ARCHITECTURES if name not in ("mllama", "hunyuan_vl"))
CONTINUED = tuple(name for name in ARCHITECTURES if name != "mllama")
SHARED = ("qwen2_5_vl", "qwen3_vl", "llava", "internvl", "idefics3")
ATTENTION = tuple(name for name in CONTINUED if name not in (*RECURRENT, *WINDOWS))


def leave_out_the_mask(monkeypatch, model):
    """Choices in a row see one another."""

    def unmasked(model, ids, mask, positions, cache):
        return before(model, ids, mask if mask.dim() == 2 else mask[:, 0].any(1), positions, cache)

    before = choices._continue
    monkeypatch.setattr(choices, "_continue", unmasked)


def restart_positions(monkeypatch, model):
    """Choices stand at the beginning of their prompt."""
    monkeypatch.setattr(choices, "_next", lambda positions: positions[..., -1:] * 0)


def lose_the_window(monkeypatch, model):
    """The cache keeps the keys that a layer no longer sees."""
    text = sys.modules[type(model.model.model.language_model).__module__]
    monkeypatch.setattr(text, "DynamicCache", lambda *_, **__: DynamicCache())


def attend_to_padding(monkeypatch, model):
    """All layers see the padding."""

    def unmasked(*args):
        inputs = before(*args)
        return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}

    before = model.chat.collate
    monkeypatch.setattr(model.chat, "collate", unmasked)


def remember_padding(monkeypatch, model):
    """Padding enters the state of recurrent layers."""
    for module in {sys.modules[type(layer).__module__] for layer in model.model.modules()}:
        if hasattr(module, "apply_mask_to_padding_states"):
            monkeypatch.setattr(module, "apply_mask_to_padding_states", lambda hidden, _: hidden)


def leave_out_the_grid(monkeypatch, model):
    """Positions are those of text, also in an image."""
    monkeypatch.setattr(image_features, "position_inputs", lambda _: ())
    if model.encoder:
        model.encoder._positional = ()


def leave_out_the_types(monkeypatch, model):
    """Tokens of an image are not told from those of text."""

    def untyped(*args, **options):
        inputs = before(*args, **options)
        return {name: value for name, value in inputs.items() if "type_ids" not in name}

    before = model.chat.batch_texts
    monkeypatch.setattr(model.chat, "batch_texts", untyped)


def encode_another_image(monkeypatch, model):
    """Images are encoded upside down."""

    def turned(self, images, **options):
        return run(self, [ImageOps.flip(image) for image in images], **options)

    run = ImageEncoder._run
    monkeypatch.setattr(ImageEncoder, "_run", turned)


def see_what_stands_beside(monkeypatch, model):
    """Nodes side by side in a row see one another."""

    def unmasked(before, laid):
        own = laid.own if laid.own is None else torch.ones_like(laid.own).tril()
        return mask(before, laid._replace(own=own))

    mask = passes._mask
    monkeypatch.setattr(passes, "_mask", unmasked)


def see_padding_of_prefixes(monkeypatch, model):
    """Padding within a row is seen by what follows."""
    monkeypatch.setattr(hf_vlm, "CPU_PACKED", 0.0)

    def unmasked(before, laid):
        return mask(torch.ones_like(before), laid._replace(valid=torch.ones_like(laid.valid)))

    mask = passes._mask
    monkeypatch.setattr(passes, "_mask", unmasked)


def continue_another_prefix(monkeypatch, model):
    """Rows of a cache are taken for others."""
    monkeypatch.setattr(hf_vlm, "CPU_PACKED", 0.0)

    def turned(cache, rows):
        return selected(cache, [max(rows) - row for row in rows])

    selected = passes.selected
    monkeypatch.setattr(passes, "selected", turned)


def restart_behind_prefixes(monkeypatch, model):
    """Positions behind a prefix begin anew."""

    def restarted(self, rows, mask, images):
        rows = rows.clone()
        first = 2 + len(self.vlm.encoder.type_ids)
        rows[first:] -= rows[first:, :, :1]
        return inputs(self, rows, mask, images)

    inputs = passes.TreeWalk._inputs
    monkeypatch.setattr(passes.TreeWalk, "_inputs", restarted)


REPEATED = {"prefixes": "repeated"}
FAULTS = {
    see_what_stands_beside: (SHARED, {"prefixes": "packed"}, {"prefixes": "rows"}),
    see_padding_of_prefixes: (SHARED, {"prefixes": "packed"}, {"prefixes": "rows"}),
    continue_another_prefix: (SHARED, {"prefixes": "packed"}, REPEATED),
    restart_behind_prefixes: (SHARED, {"prefixes": "packed"}, REPEATED),
    leave_out_the_mask: (ATTENTION, {"choices": "packed"}, {"choices": "rows"}),
    restart_positions: (CONTINUED, {}, {"choices": "whole"}),
    lose_the_window: (WINDOWS, {"choices": "packed"}, {"choices": "rows"}),
    attend_to_padding: (PADDED, {}, {"batches": "of equal length"}),
    remember_padding: (RECURRENT, {}, {"batches": "of equal length"}),
    leave_out_the_grid: (GRIDS, {}, {"images": "encoded for each request"}),
    leave_out_the_types: (TYPES, {}, {"images": "encoded for each request"}),
    encode_another_image: (ENCODED, {}, {"images": "encoded for each request"}),
}
"""By fault: the architectures that it is about, the ways in use before, and those in use after it
is seen."""
QUICK = {
    *((see_what_stands_beside, name) for name in ("qwen2_5_vl",)),
    *((see_padding_of_prefixes, name) for name in ("qwen3_vl",)),
    *((continue_another_prefix, name) for name in ("llava",)),
    *((restart_behind_prefixes, name) for name in ("qwen2_5_vl",)),
    *((leave_out_the_mask, name) for name in ("qwen2_5_vl", "llava")),
    *((restart_positions, name) for name in ("qwen2_5_vl", "qwen3_5", "llava")),
    *((lose_the_window, name) for name in ("gemma3",)),
    *((attend_to_padding, name) for name in ("qwen3_vl", "llava")),
    *((remember_padding, name) for name in ("qwen3_5", "lfm2_vl")),
    *((leave_out_the_grid, name) for name in ("qwen2_vl", "qwen3_5")),
    *((leave_out_the_types, name) for name in ("gemma3", "molmo2")),
    *((encode_another_image, name) for name in ("qwen3_vl", "idefics3")),
}
CASES = [
    pytest.param(
        *(fault, name, before, after),
        marks=[] if (fault, name) in QUICK else pytest.mark.slow,
        id=f"{fault.__name__}-{name}",
    )
    for fault, (names, before, after) in FAULTS.items()
    for name in names
]


def is_right(answers, wanted):
    """True if all answers are within the tolerance."""
    return all(
        not isinstance(answer, Failed)
        and np.abs(np.subtract(answer.choice_logprobs, values)).max()
        <= TOLERANCE[torch.float32] * np.abs(values).max()
        for answer, values in zip(answers, wanted, strict=True)
    )


@pytest.fixture
def small(plain, name):
    """Requests, with their log-probabilities in plain passes."""
    reference, queries = plain[name, "float32"], requests(name)
    return queries, [reference.choice_logprobs(request) for request in queries]


@pytest.mark.parametrize(("fault", "name", "before", "after"), CASES)
def test_a_fault_is_seen_and_the_slower_way_is_right(
    judge, small, fault, before, after, monkeypatch
):
    model, (queries, wanted) = judge.model, small
    model.ways = dataclasses.replace(model.ways, **REPEATED | before)
    model.encoder = forgetful(model.encoder)
    monkeypatch.setattr(hf_vlm, "WORTH", Worth(1, 1))
    monkeypatch.setattr(hf_vlm, "PACKED_LEAST", 0)
    monkeypatch.setattr(hf_vlm, "CPU_PADDING", 1000)
    fault(monkeypatch, model)
    assert not is_right(model.generate(queries), wanted)
    model.ways, model.encoder = Ways(), None
    prove(model)
    described = judge.describe()["model"]
    assert {name: described["ways"][name] for name in after} == after
    assert described["slower"]
    assert_equal(model.generate(queries), wanted)


def forgetful(encoder):
    """Copy of an encoder, without the features that it has computed."""
    encoder = copy.copy(encoder)
    if encoder:
        encoder._features = {}
    return encoder


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_state_is_not_shared_between_choices(judge, small, name, monkeypatch):
    """Side by side in a row, or in rows that continue one state."""
    model, (queries, wanted) = judge.model, small
    assert judge.describe()["model"]["ways"]["choices"] == "rows"
    model.ways = dataclasses.replace(model.ways, **REPEATED)
    model.batch_size = 1
    assert_equal(model.generate(queries), wanted)

    def shared(cache, owners):
        rows = copied(cache, owners)
        rows.layers = [
            new if hasattr(old, "key_cache") or hasattr(old, "keys") else old
            for new, old in zip(rows.layers, cache.layers, strict=True)
        ]
        return rows

    copied = choices._copied
    monkeypatch.setattr(choices, "_CACHED_TOKENS", 1)
    assert_equal(model.generate(queries), wanted)
    monkeypatch.setattr(choices, "_copied", shared)
    assert not is_right(model.generate(queries), wanted)
    monkeypatch.undo()
    model.ways = dataclasses.replace(model.ways, choices="packed")
    assert not is_right(model.generate(queries), wanted)


@pytest.mark.parametrize("name", THINKING)
def test_a_choice_within_a_thought_has_another_probability(judge, small, name, monkeypatch):
    model, (queries, wanted) = judge.model, small
    chat = model.chat
    monkeypatch.setattr(chat_template, "_switches", lambda _: [])
    thinking = Chat(chat.processor)
    thinking._format = thinking._format._replace(ending="")
    monkeypatch.setattr(model, "chat", thinking)
    assert not is_right(model.generate(queries), wanted)


@pytest.mark.parametrize("name", ["qwen3_5"])
def test_a_request_that_cannot_be_tokenised_fails_alone(judge, small, name, monkeypatch):
    model, (queries, wanted) = judge.model, small
    model.ways = dataclasses.replace(model.ways, batches="of equal length")
    bad = dataclasses.replace(queries[0], parts=("unknown",))
    tokenise = model.chat._ids

    def refuse(text):
        if "unknown" in text:
            raise ValueError("token 9999 is unknown to the model")
        return tokenise(text)

    monkeypatch.setattr(model.chat, "_ids", refuse)
    first, *others = model.generate([bad, *queries])
    assert isinstance(first, Failed)
    assert_equal(others, wanted)


def test_ways_that_are_not_used_are_named_with_their_difference():
    ways = Ways(differences={"features": "no image token", "batches": 0.5, "packed": 0.25})
    assert ways.slower() == [
        "an image is encoded again for each request: the faster way differs (no image token)",
        "each request is asked alone: the faster way differs (0.5)",
        "choices are asked with a whole prompt each: the faster way differs (0.25)",
    ]


@pytest.mark.parametrize("name", ["llava"])
def test_a_judge_that_is_sure_of_an_answer_is_not_taken_for_a_blind_one(judge):
    model = judge.model
    digit, end = model.chat.closed("1")

    def be_sure(head, inputs, logits):
        logits[:, -3, digit] += 1000
        logits[:, -2, end] += 1000

    hook = model.model.lm_head.register_forward_hook(be_sure)
    model.ways, model.encoder = Ways(), None
    try:
        prove(model)
    finally:
        hook.remove()
    assert model.ways.images == "encoded once"
