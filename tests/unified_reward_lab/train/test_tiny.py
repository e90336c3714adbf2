"""The tiny base: what it is made of, that its tower learns, and that a run writes a checkpoint."""

import PIL.Image
import pytest
import torch
from transformers import AutoProcessor

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.microworld import vocabulary
from unified_reward_lab.train.tiny import (
    LessonTurns,
    TinyPretraining,
    build_model,
    build_processor,
    build_tokenizer,
    pretrain,
)
from unified_reward_lab.train.vision import VisionWarmup, warm_up


def pretraining(steps):
    return TinyPretraining(
        OptimConfig(steps=steps, batch_size=4, accumulate=1),
        vision=VisionWarmup(steps=2, batch_size=4),
        frames=3,
        videos_from=0.5,
    )


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([" ".join(vocabulary())] * 20)


@pytest.mark.parametrize("text", ["a red circle", "größe 東京 🦊", "100", "\n\ttabs  and  spaces "])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_image_costs_a_token_a_cell(tokenizer):
    chat = Chat(build_processor(tokenizer))
    images = tuple(PIL.Image.new("RGB", (side, side)) for side in (20, 64, 300))
    ids = chat.batch([Request((*images, "?"))])["input_ids"][0].tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 3 * 4


def test_a_server_finds_the_answer_behind_the_role(tokenizer, tmp_path):
    """Works as a server does: generated tokens are read after the prompt that was sent."""
    build_processor(tokenizer).save_pretrained(tmp_path)
    chat = Chat(AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False))
    prompt = chat.prompt(Request(("better picture: a red circle",)))
    tokens_out = [*chat.tokens("first"), chat.eos_id]
    assert chat.tokenizer.parse_response(tokens_out, prefix=prompt)["content"] == "first"


def test_the_base_is_small_enough_to_ship(tokenizer):
    model = build_model(tokenizer)
    assert 1e6 < sum(weight.numel() for weight in model.parameters()) < 3e6


def test_the_warm_up_teaches_the_tower_something(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chat = Chat(build_processor(tokenizer))
    losses = warm_up(model, chat, VisionWarmup(steps=16, batch_size=16), seed=0)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(before[n], value)}
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.92 * sum(losses[:4])
    assert moved
    words = {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    assert all(".visual." in name or name in words for name in moved)


def test_a_word_of_many_tokens_cannot_name_a_class(tokenizer):
    chat = Chat(build_processor(build_tokenizer(["nothing else"])))
    with pytest.raises(ConfigError, match="must be a single token"):
        warm_up(build_model(chat.tokenizer), chat, VisionWarmup(steps=1), seed=0)


def test_videos_come_in_late_and_about_every_second_block():
    """An image shows one or, in a choice, two; a video three frames, or six."""
    turns = LessonTurns(pretraining(40))
    n_shown = [
        sum(not isinstance(part, str) for part in turns[i].request.parts) for i in range(0, 160, 4)
    ]
    assert len(turns) == 160
    assert set(n_shown[:20]) == {1, 2}
    assert set(n_shown[20:]) == {1, 2, 3, 6}
    assert 4 <= sum(n >= 3 for n in n_shown[20:]) <= 16


def test_a_lesson_depends_on_its_index_alone():
    entry, other = LessonTurns(pretraining(40)), LessonTurns(pretraining(40))
    assert entry[150].answer == other[150].answer
    assert entry[3].request.parts[-1] == other[3].request.parts[-1]
    assert len({entry[i].request.parts[-1] + entry[i].answer for i in range(16)}) > 8


@pytest.mark.slow
def test_a_short_pretraining_writes_a_checkpoint_that_answers(tmp_path):
    losses = pretrain(pretraining(2), tmp_path)
    base = load_vlm(tmp_path, device="cpu")
    assert [step for step, _ in losses] == [1, 2]
    assert len(base.generate([Request(("a red circle",), max_new_tokens=2)])) == 1
    assert len(base.chat.tokens("better picture: a red circle")) < 12
