"""Configuration, tokenizer and processor of an original LLaVA-NeXT checkpoint, for transformers.

Settings that LLaVA-OneVision in transformers does not have are refused, not approximated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
)

from unified_reward.checkpoints.tensor_keys import State, shape, square_side
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.errors import ModelError, one_line


TOWER = "model.vision_tower.vision_tower.vision_model"
"""Prefix of the vision tower's tensors in the original."""
HEAD = "lm_head.weight"
"""Name of the output layer's weight."""
_CLASS = "LlavaQwenForCausalLM"
_TOWER_LAYERS = 27
"""Layers of SigLIP so400m; select layer -2 is the output of the last but one."""
_HEAD_WIDTH = 72
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "image_aspect_ratio": ("anyres_max_9",),
    "mm_vision_select_layer": (-2,),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
}
"""Values that LLaVA-OneVision supports; any other would be computed wrongly."""
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_NEEDED = (*_SIZES, "vocab_size", "rope_theta", "image_grid_pinpoints")
_START, _END = "<|im_start|>", "<|im_end|>"
_MEDIA = ("<image>", "<video>")
_CHAT = (
    "{%- if messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- set shown = message.content | rejectattr('type', 'equalto', 'text') | list -%}"
    "{%- set said = message.content | selectattr('type', 'equalto', 'text') | list -%}"
    "{%- for part in (shown + said if shown | length == 1 else message.content) -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type in ('image', 'image_url') -%}{{ '<image>\n' }}"
    "{%- elif part.type == 'video' -%}{{ '<video>\n' }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""Conversation ``qwen_1_5``. As in training, a single image comes first wherever it stood."""


def unsupported_settings(original: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of a config that LLaVA-OneVision does not support, one sentence each."""
    problems: list[str] = []
    kinds = original.get("architectures") or [original.get("model_type")]
    if _CLASS not in kinds:
        problems.append(f"config.json is of {', '.join(map(str, kinds))}, and must be of {_CLASS}")
    for key, known in _ONLY.items():
        if (given := original.get(key)) not in known:
            right = " or ".join(json.dumps(value) for value in known)
            problems.append(f"{key} is {json.dumps(given)} in config.json, and must be {right}")
    if lacking := [key for key in _NEEDED if original.get(key) is None]:
        problems.append(f"config.json lacks {', '.join(lacking)}")
    return tuple(problems)


def convert_config(
    original: Mapping[str, Any], tokenizer: Any, state: State, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Convert the config of the original checkpoint.

    Args:
        original: The original config. A ``vision_config`` in it, as tiny models have, says
            ``image_size``, ``num_attention_heads`` and ``num_hidden_layers`` (the last, unread
            layer included) where the tower is not SigLIP so400m.
        tokenizer: The tokenizer from `read_tokenizer`.
        state: The original tensors, whose shapes give the other sizes of the tower.
        dtype: Dtype of the weights; default that of the largest.

    Raises:
        ModelError: Config, tokenizer and tensors contradict each other.
    """
    image, video = tokenizer.convert_tokens_to_ids([*_MEDIA])
    vision = _vision(original, state)
    tiles = _tiles(original["image_grid_pinpoints"], vision["image_size"])
    bulk = max(state.values(), key=Tensor.numel).dtype
    try:
        config = LlavaOnevisionConfig(
            text_config=_text(original, tokenizer),
            vision_config=vision,
            image_token_index=image,
            video_token_index=video,
            image_grid_pinpoints=tiles,
            vision_aspect_ratio=original["image_aspect_ratio"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=original.get("tie_word_embeddings", HEAD not in state),
            architectures=["LlavaOnevisionForConditionalGeneration"],
            dtype=str(dtype or bulk).removeprefix("torch."),
        )
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ModelError(f"config.json cannot be converted: {one_line(error)}") from error
    return json.loads(config.to_json_string())


def _text(original: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        **{key: original[key] for key in _SIZES},
        "vocab_size": max(original["vocab_size"], 1 + max(tokenizer.get_vocab().values())),
        "rope_parameters": {"rope_type": "default", "rope_theta": original["rope_theta"]},
        "bos_token_id": original.get("bos_token_id"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision(original: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Config of the tower without its last layer, by the shapes of its tensors."""
    own = original.get("vision_config") or {}
    width, channels, patch, _ = _shape(state, "embeddings.patch_embedding.weight", 4)
    rows, _ = _shape(state, "embeddings.position_embedding.weight", 2)
    inner, _ = _shape(state, "encoder.layers.0.mlp.fc1.weight", 2)
    named = re.search(r"-(\d{2,4})/?$", original.get("mm_vision_tower") or "")
    side = own.get("image_size") or (int(named[1]) if named else 0)
    if side // patch != square_side(rows, without=0):
        raise ModelError(
            f"the vision tower sees {rows} patches of {patch} x {patch} pixels, which is not "
            f"{side} pixels a side, as mm_vision_tower in config.json ends; it must end as "
            "siglip-so400m-patch14-384 does"
        )
    heads = own.get("num_attention_heads") or width // _HEAD_WIDTH or 1
    if width % heads:
        raise ModelError(f"the vision tower is {width} wide, not a multiple of {heads} heads")
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": own.get("num_hidden_layers", _TOWER_LAYERS) - 1,
        "num_attention_heads": heads,
        "num_channels": channels,
        "image_size": side,
        "patch_size": patch,
        "vision_use_head": False,
    }


def _shape(state: State, name: str, dims: int) -> Sequence[int]:
    sizes = shape(state, f"{TOWER}.{name}")
    if len(sizes) != dims:
        raise ModelError(f"{TOWER}.{name} has {len(sizes)} dimensions, and must have {dims}")
    return sizes


def _tiles(pinpoints: Any, side: int) -> list[list[int]]:
    """Sizes that an image is tiled to, height first; the original has the width first."""
    pairs: Any = pinpoints
    if isinstance(pinpoints, str):
        ends = [[int(n) for n in match] for match in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        across, down = (
            (range(a, b + 1) for a, b in zip(ends[0], ends[-1], strict=True)) if ends else ((), ())
        )
        pairs = [(i * side, j * side) for i in across for j in down]
    try:
        sizes = [[int(height), int(width)] for width, height in pairs]
    except (TypeError, ValueError):
        sizes = []
    if not sizes or any(n < side or n % side for pair in sizes for n in pair):
        raise ModelError(
            f"image_grid_pinpoints is {pinpoints!r} in config.json; it must be pairs of multiples "
            f'of {side}, or like "(1x1),...,(6x6)"'
        )
    return sizes


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of an original checkpoint, and add tokens for images and videos.

    Raises:
        ModelError: The tokenizer is incomplete, or has no ChatML tokens.
    """
    # Without a vocabulary transformers silently builds one of the added tokens alone.
    has = {file.name for file in folder.iterdir()}
    if "tokenizer.json" not in has and not {"vocab.json", "merges.txt"} <= has:
        raise ModelError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt")
    tokenizer = load_tokenizer(folder, config=Qwen2Config())
    if not {_START, _END} <= tokenizer.get_vocab().keys():
        raise ModelError(f"the tokenizer of {folder} lacks {_START} or {_END}, as ChatML needs")
    added: dict[str, Any] = {"extra_special_tokens": [*_MEDIA]}
    tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    tokenizer.eos_token = _END
    tokenizer.pad_token = tokenizer.pad_token or _END
    tokenizer.padding_side = "left"
    return tokenizer


def build_processor(folder: Path, config: Mapping[str, Any]) -> LlavaOnevisionProcessor:
    """Build the processor for a new config, with the tokenizer of the original folder."""
    vision = config["vision_config"]
    side, tiles = vision["image_size"], config["image_grid_pinpoints"]
    size, half = {"height": side, "width": side}, [0.5] * 3
    pixels: dict[str, Any] = {"size": size, "image_mean": half, "image_std": half}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(**pixels, image_grid_pinpoints=tiles),
        read_tokenizer(folder),
        LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(side // vision["patch_size"]) ** 2,
        vision_feature_select_strategy=config["vision_feature_select_strategy"],
        vision_aspect_ratio=config["vision_aspect_ratio"],
        chat_template=_CHAT,
    )
