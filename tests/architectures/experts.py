"""Random tiny checkpoints of further architectures with a mixture of experts."""

from transformers import (
    AddedToken,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5_VLMoeImageProcessor,
    Ernie4_5_VLMoeProcessor,
    Ernie4_5_VLMoeVideoProcessor,
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    Kimi_K25ImageProcessor,
    Kimi_K25Processor,
    Kimi_K25VideoProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


# Marks of reasoning are added tokens, but not special: decoded text holds them.
_THINKING = [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]

_ERNIE_NAMED = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
# Images are numbered over the conversation.
_ERNIE_CHAT = (
    "{{- '<|begin_of_sentence|>' -}}"
    "{%- set picture = namespace(n=0) -%}"
    "{%- for message in messages -%}"
    "{{- 'User: ' if message.role == 'user' else 'Assistant: ' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{%- set picture.n = picture.n + 1 -%}"
    "{{- 'Picture ' ~ picture.n ~ ':<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '\n' if message.role == 'user' else '<|end_of_sentence|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\n\n</think>\n\n' -}}{%- else -%}{{- '<think>\n' -}}{%- endif -%}{%- endif -%}"
)
_SIZE = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}


def ernie4_5_vl_moe(folder):
    tokenizer = train_tokenizer(
        ["<|begin_of_sentence|>"], eos="<|end_of_sentence|>", pad="<pad>", **_ERNIE_NAMED
    )
    tokenizer.add_tokens(_THINKING)
    config = Ernie4_5_VLMoeConfig(
        text_config=text_config(tokenizer)
        | {
            "num_hidden_layers": 3,  # the experts of images reach an answer through a later layer
            "moe_intermediate_size": [32, 32],
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [3, 3, 2],
            },
        },
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64},
        **{
            f"{name}_id": tokenizer.convert_tokens_to_ids(token)
            for name, token in _ERNIE_NAMED.items()
        },
    )
    processor = Ernie4_5_VLMoeProcessor(
        Ernie4_5_VLMoeImageProcessor(size=_SIZE),
        tokenizer,
        Ernie4_5_VLMoeVideoProcessor(size=_SIZE, draw_on_frames=False),
        chat_template=_ERNIE_CHAT,
    )
    return save_checkpoint(folder, Ernie4_5_VLMoeForConditionalGeneration(config), processor)


_KIMI_TOKENS = (
    *("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"),
    "<|kimi_k25_video_placeholder|>",
)
_KIMI_CHAT = (
    "{%- for message in messages -%}"
    "{{- '<|im_' + message.role + '|>' + message.role + '<|im_middle|>' -}}"
    "{%- if message.role == 'assistant' -%}{{- '<think></think>' -}}{%- endif -%}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}"
    "{{- '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_assistant|>assistant<|im_middle|>' -}}"
    "{%- if thinking is defined and thinking is false -%}{{- '<think></think>' -}}"
    "{%- else -%}{{- '<think>' -}}{%- endif -%}{%- endif -%}"
)


def kimi_k25(folder):
    tokenizer = train_tokenizer(_KIMI_TOKENS, eos="<|im_end|>", pad="[PAD]")
    tokenizer.add_tokens(_THINKING)
    config = Kimi_K25Config(
        text_config={
            "model_type": "deepseek_v3",
            **text_config(tokenizer),
            "num_key_value_heads": 2,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
        },
        projection_hidden_size=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<|media_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|kimi_k25_video_placeholder|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|media_begin|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|media_end|>"),
        tie_word_embeddings=False,
    )
    processor = Kimi_K25Processor(
        Kimi_K25ImageProcessor(),
        tokenizer,
        Kimi_K25VideoProcessor(),
        chat_template=_KIMI_CHAT,
    )
    return save_checkpoint(folder, Kimi_K25ForConditionalGeneration(config), processor)


ARCHITECTURES = {"ernie4_5_vl_moe": ernie4_5_vl_moe, "kimi_k25": kimi_k25}
