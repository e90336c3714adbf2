"""Random tiny checkpoints of Aya Vision and Command A Vision: tiles before Cohere 2."""

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    GotOcr2ImageProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_SIDE, _PATCH, _MERGE = 28, 7, 2
_START, _END = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
_ROLES = ("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
_ANSWER = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
_CHAT = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    f"{{{{ '{_START}{_ROLES[1]}{_ANSWER[0]}' }}}}"
    "{%- else -%}"
    f"{{{{ '{_START}{_ROLES[0]}' }}}}"
    "{%- endif -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ 'IMAGE' }}"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}"
    f"{{{{ '{_ANSWER[1]}' }}}}"
    "{%- endif -%}"
    f"{{{{ '{_END}' }}}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    f"{{{{ '{_START}{_ROLES[1]}{_ANSWER[0]}' }}}}"
    "{%- endif -%}"
)


def aya_vision(folder):
    marks = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"]
    tokenizer = _build_tokenizer(["TILE_GLOBAL", "TILE", *marks])
    config = AyaVisionConfig(
        **_configs(tokenizer),
        downsample_factor=_MERGE,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessor(size={"height": _SIDE, "width": _SIDE}, max_patches=4),
        tokenizer,
        patch_size=_PATCH,
        img_size=_SIDE,
        downsample_factor=_MERGE,
        chat_template=_CHAT.replace("IMAGE", "<image>"),
    )
    return save_checkpoint(folder, AyaVisionForConditionalGeneration(config), processor)


def cohere2_vision(folder):
    tokenizer = _build_tokenizer(
        [],
        image_token="<|IMG_PATCH|>",  # noqa: S106
        boi_token="<|START_OF_IMG|>",  # noqa: S106
        eoi_token="<|END_OF_IMG|>",  # noqa: S106
        img_line_break_token="<|IMG_LINE_BREAK|>",  # noqa: S106
    )
    config = Cohere2VisionConfig(
        **_configs(tokenizer),
        downsample_factor=_MERGE,
        alignment_intermediate_size=64,
        image_token_id=tokenizer.image_token_id,
    )
    # The processor takes the square of this patch size for the number of tokens of a tile.
    images = Cohere2VisionImageProcessor(
        size={"height": _SIDE, "width": _SIDE}, patch_size=_SIDE // _PATCH // _MERGE, max_patches=4
    )
    processor = Cohere2VisionProcessor(
        images, tokenizer, chat_template=_CHAT.replace("IMAGE", "<|IMG_PATCH|>")
    )
    return save_checkpoint(folder, Cohere2VisionForConditionalGeneration(config), processor)


ARCHITECTURES = {"aya_vision": aya_vision, "cohere2_vision": cohere2_vision}


def _build_tokenizer(marks, **named):
    return train_tokenizer(
        [_START, *_ROLES, *_ANSWER, *marks], bos="<BOS_TOKEN>", eos=_END, pad="<PAD>", **named
    )


def _configs(tokenizer):
    return {
        "text_config": {
            "model_type": "cohere2",
            **text_config(tokenizer),
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": 64,
            "logit_scale": 1.0,
            "bos_token_id": tokenizer.bos_token_id,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _SIDE,
            "patch_size": _PATCH,
            "vision_use_head": False,
        },
    }
