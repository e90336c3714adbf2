"""Random tiny checkpoints of LLaVA 1.5 and LLaVA-NeXT: a CLIP tower before a language model."""

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_PARTS = (
    "{%- macro parts(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content if part.type == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in content if part.type == 'text' -%}{{ part.text + space }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
"""Both checkpoints put the images of a turn before its texts."""
_CHAT = (
    "{%- set space = ' ' -%}"
    + _PARTS
    + "{%- for message in messages -%}"
    + "{{ message.role.upper() + ': ' }}{{ parts(message.content) }}"
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"
)
_NEXT_CHAT = (
    "{%- set space = '' -%}"
    + _PARTS
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'user' -%}{{ '[INST] ' }}{{ parts(message.content) }}{{ ' [/INST]' }}"
    + "{%- else -%}{{ ' ' }}{{ parts(message.content) }}{{ '</s> ' }}{%- endif -%}"
    + "{%- endfor -%}"
)
"""There is no header of the assistant's turn, with a generation prompt or without."""


def llava(folder):
    side, patch = 56, 14
    config, tokenizer = _build_config(LlavaConfig, "llama", side, patch)
    images = LlavaImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor = _build_processor(LlavaProcessor, images, tokenizer, patch, _CHAT)
    return save_checkpoint(folder, LlavaForConditionalGeneration(config), processor)


def llava_next(folder):
    side, patch = 28, 14
    tiles = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    config, tokenizer = _build_config(
        LlavaNextConfig, "mistral", side, patch, image_grid_pinpoints=tiles
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=tiles,
    )
    processor = _build_processor(LlavaNextProcessor, images, tokenizer, patch, _NEXT_CHAT)
    return save_checkpoint(folder, LlavaNextForConditionalGeneration(config), processor)


ARCHITECTURES = {"llava": llava, "llava_next": llava_next}


def _build_config(kind, model_type, side, patch, **options):
    tokenizer = train_tokenizer(
        [],
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        image_token="<image>",  # noqa: S106
    )
    config = kind(
        text_config={"model_type": model_type, "sliding_window": None, **text_config(tokenizer)},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": patch,
        },
        image_token_index=tokenizer.image_token_id,
        **options,
    )
    return config, tokenizer


def _build_processor(kind, images, tokenizer, patch, chat):
    return kind(
        images,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat,
    )
