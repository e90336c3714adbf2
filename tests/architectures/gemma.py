"""Random tiny checkpoints of Gemma 3 and 4: layers with a sliding window between full layers."""

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_CHAT = (
    "{{ bos_token }}"
    "{%- if messages[0].role == 'system' -%}"
    "{%- set prefix = messages[0].content + '\n\n' -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for message in turns -%}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}"
    "{%- endif -%}"
    "{%- set role = 'model' if message.role == 'assistant' else message.role -%}"
    "{{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}"
    "{%- if message.content is string -%}{{ message.content | trim }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif part.type == 'text' -%}{{ part.text | trim }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
_CHAT_4 = (
    "{{ bos_token }}"
    "{%- set thinks = enable_thinking is defined and enable_thinking -%}"
    "{%- set has_system = messages[0].role == 'system' -%}"
    "{%- if thinks or has_system -%}"
    "{{ '<|turn>system\n' }}"
    "{%- if thinks -%}{{ '<|think|>\n' }}{%- endif -%}"
    "{%- if has_system -%}{{ messages[0].content | trim }}{%- endif -%}"
    "{{ '<turn|>\n' }}"
    "{%- endif -%}"
    "{%- for message in (messages[1:] if has_system else messages) -%}"
    "{{ '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{%- set parts = [{'type': 'text', 'text': message.content}]"
    " if message.content is string else message.content -%}"
    "{%- for part in parts -%}"
    "{%- if part.type == 'image' -%}{{ '<|image|>' }}"
    "{%- elif message.role == 'assistant' -%}{{ part.text.split('<channel|>')[-1] | trim }}"
    "{%- else -%}{{ part.text | trim }}"
    "{%- endif -%}{%- endfor -%}"
    "{{ '<turn|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|turn>model\n' }}"
    "{%- if not thinks -%}{{ '<|channel>thought\n<channel|>' }}{%- endif -%}"
    "{%- endif -%}"
)
"""Like the real template, which closes the thoughts of a model that is not to think."""
_WINDOW = 64


def gemma3(folder):
    tokenizer = train_tokenizer(
        ["<start_of_turn>", "<end_of_turn>"],
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        boi_token="<start_of_image>",  # noqa: S106
        eoi_token="<end_of_image>",  # noqa: S106
        image_token="<image_soft_token>",  # noqa: S106
    )
    side = 56
    config = Gemma3Config(
        text_config=_text_config(tokenizer, "<end_of_turn>")
        | {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 7,
            "vision_use_head": False,
        },
        mm_tokens_per_image=16,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    images = Gemma3ImageProcessor(size={"height": side, "width": side})
    processor = Gemma3Processor(images, tokenizer, image_seq_length=16, chat_template=_CHAT)
    return save_checkpoint(folder, Gemma3ForConditionalGeneration(config), processor)


def gemma4(folder):
    """Like the small ones: inputs of each layer, last layers use the keys of earlier ones."""
    sliding, full = "sliding_attention", "full_attention"
    tokenizer = _build_tokenizer_4()
    text = {
        "num_hidden_layers": 5,
        "layer_types": [sliding, sliding, full, sliding, full],
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size_per_layer_input": 8,
    }
    audio = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [4, 4],
        "output_proj_dims": 16,
    }
    return _save_4(folder, tokenizer, text, {"use_clipped_linears": True}, audio)


def gemma4_moe(folder):
    """Like the large ones: experts, keys as values, tokens of an image see each other."""
    text = {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "use_bidirectional_attention": "vision",
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    }
    return _save_4(folder, _build_tokenizer_4(), text, {"standardize": True})


ARCHITECTURES = {"gemma3": gemma3, "gemma4": gemma4, "gemma4_moe": gemma4_moe}


def _text_config(tokenizer, end_of_turn):
    return text_config(tokenizer) | {
        "head_dim": 16,
        "sliding_window": _WINDOW,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end_of_turn)],
    }


def _build_tokenizer_4():
    return train_tokenizer(
        ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|video|>"],
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        image_token="<|image|>",  # noqa: S106
        boi_token="<|image>",  # noqa: S106
        eoi_token="<image|>",  # noqa: S106
        audio_token="<|audio|>",  # noqa: S106
        boa_token="<|audio>",  # noqa: S106
        eoa_token="<audio|>",  # noqa: S106
    )


def _save_4(folder, tokenizer, text, vision, audio=None):
    sizes = {"patch_size": 4, "pooling_kernel_size": 2}
    config = Gemma4Config(
        text_config=_text_config(tokenizer, "<turn|>")
        | {"global_head_dim": 32, "final_logit_softcapping": 30.0}
        | text,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "position_embedding_size": 128,
            **sizes,
            **vision,
        },
        audio_config=audio,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        audio_token_id=tokenizer.audio_token_id,
    )
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=70, **sizes),
        tokenizer,
        Gemma4VideoProcessor(max_soft_tokens=70, **sizes),
        chat_template=_CHAT_4,
    )
    return save_checkpoint(folder, Gemma4ForConditionalGeneration(config), processor)
