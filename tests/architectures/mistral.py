"""Random tiny checkpoints of Mistral Small 3.1 and Pixtral: rows of an image end in a mark."""

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_SIDE, _PATCH = 112, 14
_CHAT = (
    "{{- bos_token -}}"
    "{%- if messages[0].role == 'system' -%}"
    "{%- set system = messages[0].content -%}"
    "{%- if system is not string -%}{%- set system = system[0].text -%}{%- endif -%}"
    "{%- set turns = messages[1:] -%}"
    "{%- else -%}"
    "{%- set system = 'rate picture: better' -%}{%- set turns = messages -%}"
    "{%- endif -%}"
    "{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}"
    "{%- for message in turns -%}"
    "{%- if message.role == 'user' -%}"
    "{{ '[INST]' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type in ('image', 'image_url') -%}{{ '[IMG]' }}"
    "{%- else -%}{{ raise_exception('Only text and image blocks are supported.') }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '[/INST]' }}"
    "{%- elif message.content is string -%}{{ message.content + eos_token }}"
    "{%- else -%}{{ message.content[0].text + eos_token }}"
    "{%- endif -%}{%- endfor -%}"
)
"""Like the real template, with a system prompt of its own, and without a generation prompt."""


def mistral3(folder):
    return save_checkpoint(folder, *mistral3_parts())


def mistral3_parts(**changes):
    """Model and processor of Mistral Small 3.1.

    Args:
        **changes: Settings of the language model.
    """
    tokenizer = _build_tokenizer()
    configs = _configs(tokenizer)
    configs["text_config"] |= changes
    config = Mistral3Config(**configs, multimodal_projector_bias=False, tie_word_embeddings=False)
    return Mistral3ForConditionalGeneration(config), _build_processor(tokenizer, merge=2)


def llava_pixtral(folder):
    """A LLaVA by its ``model_type``, but with a tower that takes images of any size."""
    tokenizer = _build_tokenizer()
    config = LlavaConfig(
        **_configs(tokenizer), vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    model = LlavaForConditionalGeneration(config)
    return save_checkpoint(folder, model, _build_processor(tokenizer, merge=1))


ARCHITECTURES = {"llava_pixtral": llava_pixtral, "mistral3": mistral3}


def _build_tokenizer():
    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    images = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    return train_tokenizer([*marks, *images], bos="<s>", eos="</s>", pad="<pad>")


def _configs(tokenizer):
    return {
        "text_config": {
            "model_type": "mistral",
            "head_dim": 16,
            "sliding_window": None,
            **text_config(tokenizer),
        },
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": _SIDE,
            "patch_size": _PATCH,
        },
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
    }


def _build_processor(tokenizer, *, merge):
    images = PixtralImageProcessor(
        size={"longest_edge": _SIDE}, patch_size={"height": _PATCH, "width": _PATCH}
    )
    return PixtralProcessor(
        images, tokenizer, patch_size=_PATCH, spatial_merge_size=merge, chat_template=_CHAT
    )
