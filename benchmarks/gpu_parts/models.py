"""Vision-language models of published sizes with random weights, made on the device, and a chat.

Sizes are those of the published ``config.json``; tokenizer and processor are made offline, as tests
make them, so that each common word is one token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.gpu_parts.run import Run, made_on


Sizes = Mapping[str, Any]
QWEN2_5: dict[str, Sizes] = {
    "text_config": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128_000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
QWEN3: dict[str, Sizes] = {
    "text_config": {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}
_TINY_TEXT = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16_384,
}
_TINY_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
_TINY = {
    "qwen2_5_vl": (
        {
            "rope_parameters": {
                **QWEN2_5["text_config"]["rope_parameters"],
                "mrope_section": [2, 3, 3],
            },
        },
        {"depth": 2, "fullatt_block_indexes": [1]},
    ),
    "qwen3_vl": (
        {
            "head_dim": 16,
            "rope_parameters": {
                **QWEN3["text_config"]["rope_parameters"],
                "mrope_section": [3, 3, 2],
            },
        },
        {"depth": 2, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
}
VLMS = {"Qwen2.5-VL-7B": ("qwen2_5_vl", QWEN2_5), "Qwen3-VL-8B": ("qwen3_vl", QWEN3)}
"""By the published name: the architecture, and its sizes."""
_PIXELS = (32 * 32, 4096 * 4096)
TEXT = (
    "You are shown one picture that was made for a caption . Look at what it shows , how many "
    "things there are , their colours and places , and whether hands , faces and letters are right"
)
"""Words of prompts, each of which is a token."""


def config_of(name: str, *, tiny: bool, ids: Mapping[str, int]) -> Any:
    """Configuration of a published model, or of a tiny one of its architecture."""
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    kind, sizes = VLMS[name]
    text, vision = dict(sizes["text_config"]), dict(sizes["vision_config"])
    text |= {"bos_token_id": None, "eos_token_id": None}
    if tiny:
        own_text, own_vision = _TINY[kind]
        text |= _TINY_TEXT | own_text
        vision |= _TINY_VISION | own_vision
    config = Qwen2_5_VLConfig if kind == "qwen2_5_vl" else Qwen3VLConfig
    return config(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


def build_chat(name: str) -> tuple[Any, dict[str, int]]:
    """A processor with the patches of a published model, and the ids that its model needs."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    from benchmarks.real_shapes_parts.questions import tokenizer_texts
    from unified_reward_lab.train.tiny import TOKENS, build_processor, build_tokenizer

    kind, sizes = VLMS[name]
    tokenizer = build_tokenizer([*tokenizer_texts(), *[f" {TEXT}"] * 30], vocabulary=1000)
    patch = {"patch_size": sizes["vision_config"]["patch_size"]}
    size = {"shortest_edge": _PIXELS[0], "longest_edge": _PIXELS[1]}
    images = Qwen2VLImageProcessor(size=size, **patch)
    template = build_processor(tokenizer).chat_template
    if kind == "qwen2_5_vl":
        videos: Any = Qwen2VLVideoProcessor(size=size, **patch)
        processor: Any = Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template)
    else:
        videos = Qwen3VLVideoProcessor(size=size, **patch)
        processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=template)
    return processor, {name: tokenizer.convert_tokens_to_ids(one) for name, one in TOKENS.items()}


def build_vlm(name: str, run: Run) -> Any:
    """A published model with random weights in bfloat16, as a judge's backend loads it."""
    from transformers import AutoModelForImageTextToText

    from unified_reward.backends.chat import Chat
    from unified_reward.backends.hf_vlm import VLM

    processor, ids = build_chat(name)
    config = config_of(name, tiny=run.tiny, ids=ids)
    torch.manual_seed(0)
    with made_on(run.device, torch.bfloat16):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        )
    return VLM(model, Chat(processor), name=name, batch_size=16)


def picture(seed: int, side: int) -> PIL.Image.Image:
    """A picture of smooth random colours, whose JPEG has about the size of a photograph's."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC), dtype=np.int16)
    noise = rng.integers(-12, 13, (side, side, 1), dtype=np.int16)
    return PIL.Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def words(n: int) -> str:
    """About n tokens of text."""
    given = TEXT.split()
    return " ".join(given[i % len(given)] for i in range(n))
