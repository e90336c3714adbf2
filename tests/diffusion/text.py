"""Text encoders that follow a chat template, for several families."""

from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests import tiny
from unified_reward_lab.train.tiny import TOKENS, build_processor, build_tokenizer


def chat_processor():
    """Processor of Qwen3-VL; its tokenizer has the chat template too."""
    tokenizer = build_tokenizer(tiny.TEXTS)
    processor = build_processor(tokenizer)
    tokenizer.chat_template = processor.chat_template
    return processor


def qwen3(tokenizer, *, kind=Qwen3ForCausalLM, **changes):
    """Qwen3 of width 32.

    Args:
        tokenizer: Its tokenizer.
        kind: Class of the model.
        **changes: Settings.
    """
    config = Qwen3Config(**tiny.text_config(tokenizer) | {"head_dim": 16} | changes)
    return tiny.enlarge(kind(config))


def slim(layers):
    """Settings of a language model of many layers: its width is 8."""
    return {"num_hidden_layers": layers, "hidden_size": 8, "intermediate_size": 8}


def qwen3_vl(tokenizer, *, kind=Qwen3VLForConditionalGeneration, **changes):
    """Qwen3-VL of width 32.

    Args:
        tokenizer: Its tokenizer.
        kind: Class of the model.
        **changes: Settings of the language model.
    """
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    rope = {"head_dim": 16, "rope_parameters": rope | {"mrope_section": [2, 3, 3]}}
    text = tiny.text_config(tokenizer) | rope | changes
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()},
    )
    return tiny.enlarge(kind(config))
