"""Architectures of transformers that cannot be judges are refused before their weights are read."""

import shutil

import PIL.Image
import pytest
import transformers
from transformers import (
    AutoConfig,
    AutoProcessor,
    ChameleonImageProcessor,
    ChameleonProcessor,
    CLIPImageProcessor,
    GitProcessor,
    GotOcr2ImageProcessor,
    GotOcr2Processor,
    IdeficsImageProcessor,
    IdeficsProcessor,
    Kosmos2Processor,
    PaliGemmaProcessor,
    SiglipImageProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tolerance import near
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.backends.value_head import ValueHead, ValueHeadModel, width_of
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Request


APART = "takes the tokens of an answer apart from its prompt"
BY_CLASS = {
    "blip-2": APART,
    "instructblip": APART,
    "diffusion_gemma": APART,
    "florence2": "is an encoder-decoder",
    "pix2struct": "is an encoder-decoder",
    "t5gemma2": "is an encoder-decoder",
    "udop": "is an encoder-decoder",
    "pi0": "does not write text",
    "mistral4": "takes no images",
}
CHAT = (
    "{%- for message in messages -%}{{ message.role.upper() + ':' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<image>' }}{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '</s>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
NO_MARK = "names no image token, so that images have no place in a prompt"
BY_PROCESSOR = {
    "git": (lambda words: GitProcessor(CLIPImageProcessor(), words), NO_MARK),
    "idefics": (lambda words: IdeficsProcessor(IdeficsImageProcessor(), words), NO_MARK),
    "kosmos-2": (lambda words: Kosmos2Processor(CLIPImageProcessor(), words), NO_MARK),
    "chameleon": (
        lambda words: ChameleonProcessor(ChameleonImageProcessor(), words),
        "has no chat template",
    ),
    "got_ocr2": (
        lambda words: GotOcr2Processor(
            GotOcr2ImageProcessor(), words, chat_template=CHAT.replace("image>", "imgpad>")
        ),
        "takes no text alone: You must provide valid `images`",
    ),
    "paligemma": (
        lambda words: PaliGemmaProcessor(
            SiglipImageProcessor(image_seq_length=4), words, chat_template=CHAT
        ),
        "takes no text alone: `images` are expected",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """Here every model that is loaded is proven."""


@pytest.fixture
def words():
    return train_tokenizer(["<image>", "<imgpad>"], bos="<s>", eos="</s>", pad="<pad>")


def refusal(folder):
    with pytest.raises(ModelError) as refused:
        load_vlm(folder, device="cpu")
    message = str(refused.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("model_type", BY_CLASS)
def test_a_model_whose_class_cannot_answer_about_images_is_refused_by_its_config(
    tmp_path, model_type
):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    assert f"model_type {model_type!r} {BY_CLASS[model_type]}" in refusal(tmp_path)


@pytest.mark.parametrize("model_type", BY_PROCESSOR)
def test_a_processor_without_a_place_for_images_in_a_chat_is_refused(tmp_path, words, model_type):
    build, reason = BY_PROCESSOR[model_type]
    words.chat_template = None if "template" in reason else CHAT
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    build(words).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert f"({model_type}) cannot be asked" in message
    assert reason in message


@pytest.mark.parametrize("place", ["before a turn", "at the end of an answer"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_a_chat_template_with_a_token_that_the_model_lacks_is_refused(
    checkpoints, tmp_path, name, place
):
    shutil.copytree(checkpoints[name], tmp_path, dirs_exist_ok=True)
    processor = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    ends = {"qwen2_5_vl": "<|im_end|>", "gemma3": "<end_of_turn>"}
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    template = processor.chat_template
    processor.chat_template = (
        "{{ '<|new|>' }}" + template
        if place == "before a turn"
        else template.replace(ends[name], "<|new|>")
    )
    processor.save_pretrained(tmp_path)
    new = processor.tokenizer.convert_tokens_to_ids("<|new|>")
    assert f"token {new} " in refusal(tmp_path)


def test_a_model_without_a_trunk_answers_but_takes_no_value_head(checkpoints, monkeypatch):
    request = Request((PIL.Image.new("RGB", (56, 56), "teal"), "rate"), ("1", "10", "second tie"))
    (wanted,) = load_vlm(checkpoints["qwen3_vl"], device="cpu").generate([request])
    # Some models hold their parts themselves.
    kind = transformers.Qwen3VLForConditionalGeneration
    monkeypatch.setattr(
        kind, "get_input_embeddings", lambda self: self.model.language_model.embed_tokens
    )
    monkeypatch.setattr(kind, "base_model", property(lambda self: self))
    vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    (found,) = vlm.generate([request])
    assert found.choice_logprobs == near(wanted.choice_logprobs)
    with pytest.raises(ModelError, match=r"\(qwen3_vl\) takes no value head: it has no trunk"):
        ValueHeadModel(vlm, ValueHead(width_of(vlm), 1, uncertain=False))
