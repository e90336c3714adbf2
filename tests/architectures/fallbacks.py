"""Random tiny checkpoints of architectures that cannot be asked in all of the faster ways."""

import torch
from transformers import (
    HunYuanVLConfig,
    HunYuanVLForConditionalGeneration,
    HunYuanVLImageProcessor,
    HunYuanVLProcessor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_SIDE, _PATCH = 28, 7
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_PARTS = (
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ image }}{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
)
_IDEFICS_CHAT = (
    "{%- set image = '<image>' -%}{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ message.role.capitalize() + ':' }}"
    "{%- if message.content is string or message.content[0].type == 'text' -%}{{ ' ' }}"
    "{%- endif -%}"
    + _PARTS
    + "{{ '<end_of_utterance>\n' }}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
_LLAMA_CHAT = (
    "{%- set image = '<|image|>' -%}{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    + _PARTS
    + "{{ '<|eot_id|>' }}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}"
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)
_HUNYUAN_CHAT = (
    "{%- set image = '<image_start><image><image_end>' -%}{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<' + message.role + '>' }}" + _PARTS + "{%- if message.role == 'assistant' -%}"
    "{{ eos_token }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}"
)


def idefics2(folder):
    """Its processor does not say what text it puts in place of an image."""
    end, n_tokens = "<end_of_utterance>", 4
    tokenizer = train_tokenizer(
        ["<fake_token_around_image>", "<image>", end], bos="<s>", eos="</s>", pad="<unk>"
    )
    config = Idefics2Config(
        text_config={"model_type": "mistral", "sliding_window": None, **text_config(tokenizer)},
        vision_config=_VISION,
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": n_tokens,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    size = {"shortest_edge": _SIDE, "longest_edge": _SIDE}
    processor = Idefics2Processor(
        Idefics2ImageProcessor(size=size, do_image_splitting=False),
        tokenizer,
        image_seq_len=n_tokens,
        chat_template=_IDEFICS_CHAT,
    )
    return save_checkpoint(folder, Idefics2ForConditionalGeneration(config), processor)


def mllama(folder):
    """Layers of its own attend to images, by a mask of the tokens that see each."""
    tokenizer = train_tokenizer(
        ["<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"],
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
    )
    # The model reads a mark of images, and does not write it.
    n_tokens = len(tokenizer)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    config = MllamaConfig(
        text_config=text_config(tokenizer)
        | {
            "vocab_size": n_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "num_hidden_layers": 3,
            "cross_attention_layers": [1],
            "rope_parameters": _ROPE,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": _SIDE,
            "patch_size": _PATCH,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [1],
            "vision_output_dim": 64,
            "supported_aspect_ratios": [[i, k] for i in range(1, 5) for k in range(1, 4 // i + 1)],
        },
        image_token_index=n_tokens,
    )
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("attn_gate", "mlp_gate")):
                weight.fill_(0.7)  # closed at initialisation
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": _SIDE, "width": _SIDE}, max_image_tiles=4),
        tokenizer,
        chat_template=_LLAMA_CHAT,
    )
    return save_checkpoint(folder, model, processor)


def hunyuan_vl(folder):
    """Its positions depend on padding, and its processor wants the marks around an image."""
    tokenizer = train_tokenizer(
        ["<user>", "<assistant>"],
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        image_token="<image>",  # noqa: S106
        image_start_token="<image_start>",  # noqa: S106
        image_end_token="<image_end>",  # noqa: S106
    )
    config = HunYuanVLConfig(
        text_config=text_config(tokenizer)
        | {"head_dim": 16, "rope_parameters": {**_ROPE, "mrope_section": [2, 2, 2, 2]}},
        vision_config=_VISION
        | {
            "patch_size": 14,
            "out_hidden_size": 32,
            "text_hidden_size": 32,
            "num_key_value_heads": 2,
            "max_image_size": 2 * _SIDE,
        },
        image_token_id=tokenizer.image_token_id,
        image_start_token_id=tokenizer.image_start_token_id,
        image_end_token_id=tokenizer.image_end_token_id,
    )
    size = {"shortest_edge": _SIDE**2, "longest_edge": (2 * _SIDE) ** 2}
    torch.manual_seed(0)  # its marks of a row's end are random vectors
    processor = HunYuanVLProcessor(
        HunYuanVLImageProcessor(size=size, patch_size=14), tokenizer, chat_template=_HUNYUAN_CHAT
    )
    return save_checkpoint(folder, HunYuanVLForConditionalGeneration(config), processor)


ARCHITECTURES = {"idefics2": idefics2, "mllama": mllama, "hunyuan_vl": hunyuan_vl}
