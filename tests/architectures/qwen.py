"""Random tiny checkpoints of the Qwen family."""

import torch
from transformers import (
    AddedToken,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5Tokenizer,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.tiny import TEXTS, save_checkpoint, text_config
from unified_reward_lab.train.tiny import TOKENS, build_tokenizer


_PARTS = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content -%}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' or 'video' in part -%}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif 'text' in part -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
_QWEN2_CHAT = (
    _PARTS
    + "{%- for message in messages -%}"
    + "{%- if loop.first and message.role != 'system' -%}"
    + "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    + "{%- endif -%}"
    + "{{ '<|im_start|>' + message.role + '\n' + render(message.content) + '<|im_end|>\n' }}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_QWEN3_CHAT = (
    _PARTS
    + "{%- for message in messages -%}"
    + "{{ '<|im_start|>' + message.role + '\n' + render(message.content) + '<|im_end|>\n' }}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_QWEN3_5_CHAT = (
    _PARTS
    + "{%- set last = namespace(query=-1) -%}"
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'user' -%}{%- set last.query = loop.index0 -%}{%- endif -%}"
    + "{%- endfor -%}"
    + "{%- if last.query < 0 -%}"
    + "{{ raise_exception('No user query found in messages.') }}"
    + "{%- endif -%}"
    + "{%- for message in messages -%}"
    + "{%- set content = render(message.content) | trim -%}"
    + "{%- if message.role == 'system' and not loop.first -%}"
    + "{{ raise_exception('System message must be at the beginning.') }}"
    + "{%- endif -%}"
    + "{{ '<|im_start|>' + message.role + '\n' }}"
    + "{%- if message.role == 'assistant' -%}"
    + "{%- set reasoning = message.reasoning_content or '' -%}"
    + "{%- if not reasoning and '</think>' in content -%}"
    + "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1] -%}"
    + "{%- set content = content.split('</think>')[-1].lstrip('\n') -%}"
    + "{%- endif -%}"
    + "{%- if loop.index0 > last.query -%}"
    + "{{ '<think>\n' + reasoning | trim + '\n</think>\n\n' }}"
    + "{%- endif -%}{%- endif -%}"
    + "{{ content + '<|im_end|>\n' }}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}"
    + "{{ '<|im_start|>assistant\n' }}"
    + "{%- if enable_thinking is defined and enable_thinking is false -%}"
    + "{{ '<think>\n\n</think>\n\n' }}"
    + "{%- else -%}{{ '<think>\n' }}{%- endif -%}"
    + "{%- endif -%}"
)
_SIZE = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
_HYBRID = {
    "num_hidden_layers": 4,
    "layer_types": [*["linear_attention"] * 3, "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 32,
    "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25},
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}


def qwen2_vl(folder):
    tokenizer = build_tokenizer(TEXTS)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config=text_config(tokenizer) | {"rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        **_ids(tokenizer),
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    images, videos = Qwen2VLImageProcessor(size=size), Qwen2VLVideoProcessor(size=size)
    processor = Qwen2VLProcessor(images, tokenizer, videos, chat_template=_QWEN2_CHAT)
    return save_checkpoint(folder, Qwen2VLForConditionalGeneration(config), processor)


def qwen3_vl_moe(folder):
    tokenizer = build_tokenizer(TEXTS)
    rope = {"rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}
    config = Qwen3VLMoeConfig(
        text_config=text_config(tokenizer) | _EXPERTS | rope,
        vision_config=_VISION | {"deepstack_visual_indexes": [0, 1]},
        **_ids(tokenizer),
    )
    model = Qwen3VLMoeForConditionalGeneration(config)
    return save_checkpoint(folder, model, _build_processor(tokenizer, _QWEN3_CHAT))


def qwen3_5(folder):
    tokenizer = _build_thinking_tokenizer()
    text = text_config(tokenizer) | _HYBRID
    config = Qwen3_5Config(text_config=text, vision_config=_VISION, **_ids(tokenizer))
    model = Qwen3_5ForConditionalGeneration(config)
    _slow_decay(model)
    return save_checkpoint(folder, model, _build_processor(tokenizer, _QWEN3_5_CHAT))


def qwen3_5_moe(folder):
    tokenizer = _build_thinking_tokenizer()
    experts = {**_EXPERTS, "shared_expert_intermediate_size": 32}
    text = text_config(tokenizer) | _HYBRID | experts
    config = Qwen3_5MoeConfig(text_config=text, vision_config=_VISION, **_ids(tokenizer))
    model = Qwen3_5MoeForConditionalGeneration(config)
    _slow_decay(model)
    return save_checkpoint(folder, model, _build_processor(tokenizer, _QWEN3_5_CHAT))


ARCHITECTURES = {
    "qwen2_vl": qwen2_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
}


def _ids(tokenizer):
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}


def _build_thinking_tokenizer():
    """Tokenizer as released: marks of reasoning are added, not special, so text holds them."""
    tokenizer = build_tokenizer(TEXTS)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>")])
    released = Qwen3_5Tokenizer().backend_tokenizer
    for part in ("normalizer", "pre_tokenizer"):
        setattr(tokenizer.backend_tokenizer, part, getattr(released, part))
    return tokenizer


def _build_processor(tokenizer, chat):
    images, videos = Qwen2VLImageProcessor, Qwen3VLVideoProcessor
    sizes = {"size": _SIZE, "patch_size": 16}
    return Qwen3VLProcessor(images(**sizes), tokenizer, videos(**sizes), chat_template=chat)


def _slow_decay(model):
    """Set the decay of linear layers so that they remember some tens of tokens.

    At initialisation, most heads forget everything within one token.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):
                weight.copy_(torch.linspace(0.01, 0.1, len(weight)).log())
