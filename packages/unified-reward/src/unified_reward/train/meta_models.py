"""Bases and pipelines without their weights: architectures on torch's meta device.

Some published ones are known by their sizes alone; any other is a folder.
"""

from __future__ import annotations

import copy
import inspect
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from unified_reward.checkpoints.adapters import adapter_base
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.extensions import checkpoint_path


_LEAST_PIXELS = 56 * 56
_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "image_token_index": "<|image_pad|>",
    "video_token_index": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_NARROW = {
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_heads": 1,
    "intermediate_size": 64,
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
    "layer_types": ["full_attention"],
}


class Architecture(NamedTuple):
    """What there is of a base without its weights."""

    config: Any
    processor: Any
    has_own_processor: bool
    """False where words are cut by the tokenizer of the tiny base, into more tokens."""


def read_architecture(base: str) -> Architecture:
    """The architecture and processor of a base; of an adapter, those of what it is merged into.

    Args:
        base: A folder, the name of a shipped checkpoint, or the id of one of the bases in
            ``recipes/architectures``.

    Raises:
        ConfigError: Nothing is known of it here.
        ModelError: The folder lacks a configuration or a processor.
    """
    folder = checkpoint_path(base)
    if (merged := adapter_base(folder)) is not None:
        return read_architecture(str(merged))
    if folder.is_dir():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} is no vision-language checkpoint: {error}") from error
        return Architecture(config, processor, has_own_processor=True)
    config = AutoConfig.for_model(**_known(base, "config"))
    return Architecture(config, _processor(config), has_own_processor=False)


def _known(name: str, kind: str) -> dict[str, Any]:
    """What is told of a published base (``config``) or pipeline (``pipeline``)."""
    folder = resources.files("unified_reward") / "recipes" / "architectures"
    told = {
        one.name.removesuffix(".json"): json.loads(one.read_text("utf-8"))
        for one in folder.iterdir()
    }
    found = told.get(Path(name).name, {})
    if kind not in found:
        raise ConfigError(
            f"nothing is known of {name} before it is downloaded; give a folder, or one of: "
            + ", ".join(sorted(one for one in told if kind in told[one]))
        )
    return found[kind]


def _processor(config: Any) -> Any:
    """Pictures as the architecture takes them, words by the tokenizer of the tiny base."""
    tiny = checkpoint_path("tiny_base")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    chat = (tiny / "chat_template.jinja").read_text("utf-8")
    for name, token in _TOKENS.items():
        if hasattr(config, name):
            setattr(config, name, tokenizer.convert_tokens_to_ids(token))
    vision = config.vision_config
    if config.model_type == "llava_onevision":
        size = {"height": vision.image_size, "width": vision.image_size}
        return LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(
                size=size, image_grid_pinpoints=config.image_grid_pinpoints
            ),
            tokenizer,
            LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            vision_aspect_ratio=config.vision_aspect_ratio,
            chat_template=chat.replace(
                "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>\n"
            ),
            image_token="<|image_pad|>",  # noqa: S106
            video_token="<|video_pad|>",  # noqa: S106
        )
    options: dict[str, Any] = {
        "size": {"shortest_edge": _LEAST_PIXELS, "longest_edge": 2**24},
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    images = Qwen2VLImageProcessor(**options)
    if config.model_type == "qwen3_vl":
        videos = Qwen3VLVideoProcessor(**options)
        return Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat)
    videos = Qwen2VLVideoProcessor(**options)
    return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat)


def build_meta_model(config: Any) -> Any:
    """The model in its full size without memory: shapes and names, no numbers."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def build_narrow_model(config: Any, vocabulary: int) -> Any:
    """The model with one layer of one head: the same patches, grids and positions."""
    narrow = copy.deepcopy(config)
    text, vision = narrow.get_text_config(), narrow.vision_config
    heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    vision.hidden_size //= heads
    text.hidden_size, text.vocab_size = width, vocabulary
    if hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = width
    for part in (text, vision):
        for name, value in _NARROW.items():
            if hasattr(part, name):
                setattr(part, name, value)
    return AutoModelForImageTextToText.from_config(narrow)


def max_context(config: Any) -> int | None:
    """Tokens that the model takes at most; None where it does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def build_meta_pipeline(name: str) -> Any:
    """A pipeline of diffusers in its full size without memory, and without its tokenizers.

    Args:
        name: A folder, the name of a shipped pipeline, or the id of one of those in
            ``recipes/architectures``.

    Raises:
        ConfigError: Nothing is known of it here.
        ModelError: The folder holds no pipeline.
    """
    folder = checkpoint_path(name)
    if not folder.is_dir():
        return _assembled(_known(name, "pipeline"))
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
        named = {key: one for key, one in index.items() if isinstance(one, list)}
        parts = {key: _told(folder / key, kind) for key, (_, kind) in named.items()}
        return _assembled(index | parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} is no pipeline of diffusers: {error}") from error


def _told(folder: Path, kind: str) -> dict[str, Any] | None:
    """The class and configuration of a part; None of one that has no weights and no schedule."""
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_bytes()) | {"_class_name": kind}
    return None


def _assembled(index: dict[str, Any]) -> Any:
    kind = getattr(diffusers, index["_class_name"])
    takes = inspect.signature(kind).parameters
    needed: dict[str, Any] = {key: None for key, one in takes.items() if one.default is one.empty}
    given = {
        key: _part(key, one) if isinstance(one, dict) else one
        for key, one in index.items()
        if key in takes
    }
    return kind(**needed | given)


def _part(name: str, told: dict[str, Any]) -> Any:
    kind = getattr(diffusers, told["_class_name"], None)
    if kind is not None and name == "scheduler":
        return kind.from_config(told)
    with torch.device("meta"):
        if kind is not None:
            return kind.from_config(told)
        kind = getattr(transformers, told["_class_name"])
        return kind(kind.config_class.from_dict(told))
