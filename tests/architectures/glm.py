"""Random tiny checkpoints of the GLM-V family."""

from transformers import (
    AddedToken,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    PreTrainedTokenizerFast,
)

from tests.tiny import TEXTS, save_checkpoint, text_config
from unified_reward_lab.train.tiny import build_tokenizer


_SPECIAL = (
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "/nothink",
)
_MARKS = ("<think>", "</think>", "<answer>", "</answer>")
_PARTS = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content -%}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}"
    "<|begin_of_image|><|image|><|end_of_image|>"
    "{%- elif part.type == 'video' or 'video' in part -%}"
    "<|begin_of_video|><|video|><|end_of_video|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
_GLM4_1_CHAT = (
    _PARTS
    + "{{ '[gMASK]<sop>' }}"
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'assistant' and message.content is not string -%}"
    + "{{ raise_exception('An answer must be a string.') }}"
    + "{%- endif -%}"
    + "{{ '<|' + message.role + '|>\n' + render(message.content) }}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)
_GLM4_5_CHAT = (
    _PARTS
    + "{{ '[gMASK]<sop>' }}"
    + "{%- set fast = enable_thinking is defined and not enable_thinking -%}"
    + "{%- set last = namespace(user=-1) -%}"
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}"
    + "{%- endfor -%}"
    + "{%- for message in messages -%}"
    + "{%- set content = render(message.content) -%}"
    + "{%- if message.role == 'assistant' -%}"
    + "{%- set reasoning = message.reasoning_content or '' -%}"
    + "{%- if not reasoning and '</think>' in content -%}"
    + "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1] -%}"
    + "{%- set content = content.split('</think>')[-1] -%}"
    + "{%- endif -%}"
    + "{%- set reasoning = reasoning | trim if loop.index0 > last.user else '' -%}"
    + "{{ '<|assistant|>\n<think>' + reasoning + '</think>\n' + content | trim }}"
    + "{%- else -%}"
    + "{{ '<|' + message.role + '|>\n' + content }}"
    + "{%- if message.role == 'user' and fast and not content.endswith('/nothink') -%}"
    + "{{ '/nothink' }}"
    + "{%- endif -%}{%- endif -%}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}"
    + "{{ '<|assistant|>\n' + ('<think></think>\n' if fast else '') }}"
    + "{%- endif -%}"
)
_ROPE = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "mrope_section": [1, 1, 2],
}
_EXPERTS = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
_SIZE = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84}
"""Pixels of the two frames that an image is repeated to."""


def glm4v(folder):
    tokenizer = _build_tokenizer()
    config = Glm4vConfig(**_configs(tokenizer))
    images, videos = Glm4vImageProcessor(size=_SIZE), Glm4vVideoProcessor(size=_SIZE)
    processor = Glm4vProcessor(images, tokenizer, videos, chat_template=_GLM4_1_CHAT)
    return save_checkpoint(folder, Glm4vForConditionalGeneration(config), processor)


def glm46v(folder):
    tokenizer = _build_tokenizer()
    config = Glm46VConfig(**_configs(tokenizer))
    images, videos = Glm46VImageProcessor(size=_SIZE), Glm46VVideoProcessor(size=_SIZE)
    processor = Glm46VProcessor(images, tokenizer, videos, chat_template=_GLM4_5_CHAT)
    return save_checkpoint(folder, Glm46VForConditionalGeneration(config), processor)


def glm4v_moe(folder):
    tokenizer = _build_tokenizer()
    configs = _configs(tokenizer)
    config = Glm4vMoeConfig(**configs | {"text_config": configs["text_config"] | _EXPERTS})
    images, videos = Glm4vImageProcessor(size=_SIZE), Glm4vVideoProcessor(size=_SIZE)
    processor = Glm4vProcessor(images, tokenizer, videos, chat_template=_GLM4_5_CHAT)
    return save_checkpoint(folder, Glm4vMoeForConditionalGeneration(config), processor)


ARCHITECTURES = {"glm4v": glm4v, "glm46v": glm46v, "glm4v_moe": glm4v_moe}


def _build_tokenizer():
    """Nothing but the next turn's role ends an answer, so three tokens end a generated one."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(TEXTS).backend_tokenizer,
        eos_token="<|endoftext|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=[*_SPECIAL],
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in _MARKS])
    return tokenizer


def _configs(tokenizer):
    text = text_config(tokenizer)
    del text["bos_token_id"]
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])
    tokens = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    return {
        "text_config": text | {"rope_parameters": _ROPE, "eos_token_id": ends},
        "vision_config": _VISION,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()},
    }
