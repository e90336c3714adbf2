"""Random judges with the proportions of a 7B and an 8B model, a quarter as wide and less deep.

Widths, heads and the ratios of layers to feed-forward are those of Qwen2.5-VL-7B and Qwen3-VL-8B
divided by four; the depth of the vision tower is chosen so that it takes about 30 % of a question's
time, and the vocabulary so that the last layer has the share of parameters that it has there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import VLM
from unified_reward.judges.card import Card
from unified_reward.judges.generative import GenerativeJudge
from unified_reward_lab.train.tiny import TOKENS, build_processor, build_tokenizer


FRAMES = 8
"""Frames of a clip, as the published judges see."""
SEED = 20261201
_GAIN = 1.5
"""Weights are normal with this divided by the root of a layer's inputs: at initialisation they are
so small that all choices are about as probable."""


class Size(NamedTuple):
    """Size of a random model."""

    divisor: int = 4
    """Widths of the released model are divided by it."""
    layers: int = 3
    """Layers of the language model."""
    vision_layers: int = 4
    vocabulary: int = 5120
    image_tokens: int = 256
    """Tokens of a large image."""


REAL = Size()
TINY = Size(divisor=28, layers=3, vision_layers=2, vocabulary=1024, image_tokens=16)


def build_judge(architecture: str, texts: Sequence[str], size: Size = REAL) -> GenerativeJudge:
    """Build a judge that asks a random model in the wording of family ``native``.

    Args:
        architecture: ``qwen2_5_vl`` or ``qwen3_vl``.
        texts: Texts that its tokenizer is trained on.
        size: Size of the model.
    """
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer(texts, vocabulary=size.vocabulary)
    model, processor = _BUILDERS[architecture](tokenizer, size)
    _draw_weights(model)
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    max_pixels = size.image_tokens * side**2
    vlm = VLM(model, Chat(processor, max_pixels=max_pixels), name=architecture, batch_size=16)
    return GenerativeJudge(vlm, Card("native", frames=FRAMES, max_pixels=max_pixels))


def _draw_weights(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name:
                weight.normal_(0, 1)
            elif weight.dim() > 1:
                weight.normal_(0, _GAIN / weight[0].numel() ** 0.5)


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}


def _text_config(tokenizer: Any, size: Size, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "num_hidden_layers": size.layers,
        "max_position_embeddings": 32_768,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **more,
    }


def _sections(head: int) -> list[int]:
    """Parts of half a head for time, height and width, as 16, 24 and 24 of 64."""
    return [head // 8, 3 * head // 16, head // 2 - head // 8 - 3 * head // 16]


def _limits(side: int, size: Size) -> dict[str, int]:
    return {"shortest_edge": side**2, "longest_edge": size.image_tokens * side**2}


def _qwen2_5_vl(tokenizer: Any, size: Size) -> tuple[Any, Any]:
    """Proportions of Qwen2.5-VL-7B: 28 heads of 128, 4 for keys; vision 1280 wide, 16 heads."""
    width, of = 3584 // size.divisor, 1280 // size.divisor
    heads = max(28 // size.divisor, 1)
    head = width // heads
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": _sections(head)}
    config = Qwen2_5_VLConfig(
        text_config=_text_config(
            tokenizer,
            size,
            hidden_size=width,
            intermediate_size=18_944 // size.divisor,
            num_attention_heads=heads,
            num_key_value_heads=max(4 // size.divisor, 1),
            rope_parameters=rope,
        ),
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": of // 16 * 16,
            "intermediate_size": 3420 // size.divisor,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "window_size": 112,
            "fullatt_block_indexes": [size.vision_layers - 1],
        },
        **_ids(tokenizer),
    )
    limits = _limits(28, size)
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=limits),
        tokenizer,
        Qwen2VLVideoProcessor(size=limits),
        chat_template=build_processor(tokenizer).chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(tokenizer: Any, size: Size) -> tuple[Any, Any]:
    """Proportions of Qwen3-VL-8B: 32 heads of 128, 8 for keys; vision 1152 wide, 16 heads."""
    width, of = 4096 // size.divisor // 32 * 32, 1152 // size.divisor
    heads = max(32 // size.divisor, 1)
    head = width // heads
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": _sections(head),
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=_text_config(
            tokenizer,
            size,
            hidden_size=width,
            intermediate_size=12_288 // size.divisor,
            num_attention_heads=heads,
            num_key_value_heads=max(8 // size.divisor, 1),
            head_dim=head,
            rope_parameters=rope,
        ),
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": of // 16 * 16,
            "intermediate_size": 4304 // size.divisor,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 48**2,
            "deepstack_visual_indexes": [*range(min(size.vision_layers, 3))],
        },
        **_ids(tokenizer),
    )
    shared: dict[str, Any] = {"patch_size": 16, "merge_size": 2, "size": _limits(32, size)}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**shared),
        tokenizer,
        Qwen3VLVideoProcessor(**shared),
        chat_template=build_processor(tokenizer).chat_template,
    )
    return Qwen3VLForConditionalGeneration(config), processor


_BUILDERS = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}
ARCHITECTURES = tuple(_BUILDERS)
