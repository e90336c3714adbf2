"""Random tiny checkpoint of InternVL 3: tiles of an image and a thumbnail before Qwen2."""

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_CHAT = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\n' }}"
    "{%- elif part.type == 'video' -%}{{ '<video>\n' }}"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def internvl(folder):
    tokenizer = train_tokenizer(
        ["<|im_start|>"],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        start_image_token="<img>",  # noqa: S106
        end_image_token="</img>",  # noqa: S106
        context_image_token="<IMG_CONTEXT>",  # noqa: S106
        video_token="<video>",  # noqa: S106
    )
    side, patch = 28, 7
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [side, side],
            "patch_size": [patch, patch],
        },
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": side, "width": side}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_CHAT,
    )
    return save_checkpoint(folder, InternVLForConditionalGeneration(config), processor)


ARCHITECTURES = {"internvl": internvl}
