"""Padding in training: on a side where a row is in a batch what it is alone."""

import PIL.Image
import pytest
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5

from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image
from unified_reward.train.dpo_vlm import AnswerPair, Collator, ProcessedPrompts
from unified_reward.train.optim import OptimConfig
from unified_reward.train.padding import choose_padding
from unified_reward.train.scalar import ScalarConfig, ScalarExample, fit_scalar
from unified_reward.train.sft import ChatExample, fit


PICTURE = PIL.Image.new("RGB", (56, 56), "teal")
SHORT = Request((PICTURE, "rate: "), choices=("1", "2", "3"))
LONG = Request((PICTURE, "rate picture: a red circle " * 4), choices=("1", "2", "3"))
CHATS = [ChatExample(SHORT, "2", (0.25, 0.5, 0.25)), ChatExample(LONG, "Image 1 is better")]
SCORES = [ScalarExample((SHORT,), 0.25), ScalarExample((LONG,), 0.75)]


@pytest.fixture
def blind(checkpoints, monkeypatch):
    """A hybrid whose recurrent layers do not see the mask."""
    vlm = load_vlm(checkpoints["qwen3_5"], device="cpu", dtype="float32")
    monkeypatch.setattr(
        modeling_qwen3_5, "apply_mask_to_padding_states", lambda states, mask: states
    )
    return vlm


def one_step(batch_size):
    return OptimConfig(steps=1, batch_size=batch_size, accumulate=1, lr=0.0)


@pytest.mark.parametrize("name", ["qwen3_5", "llava_onevision", "gemma3"])
def test_rows_are_padded_in_front_where_that_changes_none(checkpoints, name):
    vlm = load_vlm(checkpoints[name], device="cpu", dtype="float32")
    choose_padding(vlm.model, vlm.chat)
    assert vlm.chat.padding_side == "left"


@pytest.mark.parametrize("side", ["right", "left"])
def test_losses_of_a_batch_are_those_of_its_rows(blind, tmp_path, side):
    """In front, padding would be read by layers that do not see the mask."""
    choose_padding(blind.model, blind.chat)
    assert blind.chat.padding_side == "right"
    blind.chat.padding_side = side

    def sft(*examples):
        config = one_step(len(examples))
        return fit(blind.model, blind.chat, examples, config, tmp_path)[1][0][1]

    def scalar(*examples):
        config = one_step(len(examples))
        return fit_scalar(blind, examples, ScalarConfig(), config, tmp_path)[3][0][1]

    counts = [len(blind.chat.closed(row.answer)) for row in CHATS]
    means = {
        sft: sum(n * sft(row) for n, row in zip(counts, CHATS, strict=True)) / sum(counts),
        scalar: (scalar(SCORES[0]) + scalar(SCORES[1])) / 2,
    }
    for loss, rows in ((sft, CHATS), (scalar, SCORES)):
        same = loss(*rows) == pytest.approx(means[loss], rel=1e-4)
        assert same == (side == "right")


def test_answers_of_pairs_are_found_on_either_side(blind):
    image = Image(torch.zeros(56, 56, 3, dtype=torch.uint8).numpy(), "HWC")
    pair = AnswerPair("rate picture: ", (image,), "red", "a larger circle")
    blind.chat.padding_side = "right"
    batch = Collator(ProcessedPrompts(blind.chat), [pair])([{"row": 0}])
    for row, mask, text in zip(
        batch["input_ids"], batch["completion_mask"], ("red", "a larger circle"), strict=True
    ):
        assert row[mask.bool()].tolist() == blind.chat.closed(text)
    assert batch["attention_mask"][0, -1] == 0


def test_a_model_that_padding_changes_on_both_sides_is_refused(blind, monkeypatch):
    forward = type(blind.model.model).forward

    def counting(self, *args, **inputs):
        out = forward(self, *args, **inputs)
        out.last_hidden_state = out.last_hidden_state * inputs["input_ids"].shape[1]
        return out

    monkeypatch.setattr(type(blind.model.model), "forward", counting)
    with pytest.raises(ModelError, match="cannot be trained in batches: a row beside"):
        choose_padding(blind.model, blind.chat)
