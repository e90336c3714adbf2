"""Random tiny checkpoints of architectures with recurrent or convolutional layers."""

import torch
from transformers import (
    AddedToken,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_PATCH = 4
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": _PATCH,
}

_MINICPM_NAMED = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
_MINICPM_CHAT = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type == 'image' -%}{{ '<|image_pad|>\n' }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking -%}{{ '<think>\n' }}"
    "{%- else -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}{%- endif -%}"
)


def minicpmv4_6(folder):
    tokenizer = train_tokenizer(
        ["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", **_MINICPM_NAMED
    )
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>")])
    config = MiniCPMV4_6Config(
        text_config={
            "model_type": "qwen3_5_text",
            **text_config(tokenizer),
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.5,
            },
        },
        vision_config=_VISION | {"image_size": 32},
        insert_layer_id=0,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    model = MiniCPMV4_6ForConditionalGeneration(config)
    slices = {"patch_size": _PATCH, "scale_resolution": 32, "max_slice_nums": 4}
    processor = MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessor(**slices),
        MiniCPMV4_6VideoProcessor(**slices),
        tokenizer,
        chat_template=_MINICPM_CHAT,
    )
    _slow_decay(model)
    return save_checkpoint(folder, model, processor)


def _slow_decay(model):
    """Let recurrent layers remember some tens of tokens, at initialisation it is about one."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):
                weight.copy_(torch.linspace(0.01, 0.1, len(weight)).log())


_LFM_TOKENS = (
    *("<|im_start|>", "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
    *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
)
_LFM_CHAT = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def lfm2_vl(folder):
    tokenizer = train_tokenizer(
        _LFM_TOKENS, bos="<|startoftext|>", eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = Lfm2VlConfig(
        text_config={
            "model_type": "lfm2",
            **text_config(tokenizer),
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={
            "model_type": "siglip2_vision_model",
            **_VISION,
            "num_patches": 16,
            "vision_use_head": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
    )
    processor = Lfm2VlProcessor(
        Lfm2VlImageProcessor(
            encoder_patch_size=_PATCH,
            tile_size=4 * _PATCH,
            max_tiles=4,
            min_image_tokens=1,
            max_image_tokens=4,
        ),
        tokenizer,
        chat_template=_LFM_CHAT,
    )
    return save_checkpoint(folder, Lfm2VlForConditionalGeneration(config), processor)


ARCHITECTURES = {"minicpmv4_6": minicpmv4_6, "lfm2_vl": lfm2_vl}
