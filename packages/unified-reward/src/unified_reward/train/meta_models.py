"""Models without weights: architectures of judges, policies and pipelines on torch's meta device.

Some published ones are known by the sizes in ``recipes/architectures``; any other is a folder.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from accelerate.utils import send_to_device
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from unified_reward.checkpoints.adapters import processor_source
from unified_reward.checkpoints.kinds import read_config
from unified_reward.checkpoints.pretrained import load_errors, refuse_pipeline_code
from unified_reward.checkpoints.tensor_keys import read_json
from unified_reward.checkpoints.tokenizers import load_processor, load_tokenizer
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.extensions import checkpoint_path, missing_hint
from unified_reward.core.paths import is_folder
from unified_reward.io.text import read_text


_MIN_PIXELS = 56 * 56
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
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 1,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}


class Architecture(NamedTuple):
    """Configuration and processor of a vision-language model, without weights."""

    config: Any
    processor: Any
    has_own_processor: bool
    """False where text is split by the tokenizer of the tiny base, into more tokens."""


def read_architecture(base: str) -> Architecture:
    """Configuration and processor of a base model; for an adapter, those of its own base.

    Args:
        base: A folder, the name of a registered checkpoint, or the id of one of the bases in
            ``recipes/architectures``.

    Raises:
        ConfigError: The base is neither a folder nor known.
        ModelError: The folder lacks a configuration or a processor.
    """
    folder = checkpoint_path(base)
    if is_folder(folder):
        config = read_config(folder)
        processor = load_processor(processor_source(folder))
        return Architecture(config, processor, has_own_processor=True)
    config = AutoConfig.for_model(**_published(base, "config"))
    return Architecture(config, _build_processor(config), has_own_processor=False)


def _published(name: str, kind: str) -> dict[str, Any]:
    """Sizes of a published base (``config``) or pipeline (``pipeline``)."""
    folder = resources.files("unified_reward") / "recipes" / "architectures"
    published = {
        file.name.removesuffix(".json"): read_json(Path(str(file))) for file in folder.iterdir()
    }
    sizes = published.get(Path(name).name, {})
    if kind not in sizes:
        raise ConfigError(
            f"the architecture of {name} is not known before it is downloaded; give a folder, or "
            "one of: " + ", ".join(sorted(key for key, value in published.items() if kind in value))
        )
    return sizes[kind]


def _build_processor(config: Any) -> Any:
    """Image processor of the architecture with the tokenizer of the laboratory's tiny base."""
    tiny = checkpoint_path("tiny_base")
    if not is_folder(tiny):
        raise ConfigError(
            "without a folder, tokens are counted by the tokenizer of tiny_base"
            + missing_hint("tiny_base")
        )
    tokenizer = load_tokenizer(tiny)
    chat = read_text(tiny / "chat_template.jinja")
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
        "size": {"shortest_edge": _MIN_PIXELS, "longest_edge": 2**24},
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    images = Qwen2VLImageProcessor(**options)
    if config.model_type == "qwen2_5_vl":
        videos = Qwen2VLVideoProcessor(**options)
        return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat)
    videos = Qwen3VLVideoProcessor(**options)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat)


def build_meta_model(config: Any) -> Any:
    """Build the model in its full size on the meta device: shapes and names, no numbers."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def build_narrow_model(config: Any, vocabulary: int) -> Any:
    """Build the model with a layer of each kind, of one head: the same patches and positions."""
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
    if kinds := getattr(text, "layer_types", None):
        text.layer_types = [*dict.fromkeys(kinds)]
        text.num_hidden_layers = len(text.layer_types)
    return AutoModelForImageTextToText.from_config(narrow, trust_remote_code=False)


def max_context(config: Any) -> int | None:
    """Largest number of tokens of the model; None where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def build_meta_pipeline(name: str) -> Any:
    """Build a diffusers pipeline in its full size on the meta device, without tokenizers.

    Args:
        name: A folder, the name of a registered pipeline, or the id of one of those in
            ``recipes/architectures``.

    Raises:
        ConfigError: The pipeline is neither a folder nor known.
        ModelError: The folder holds no pipeline.
    """
    folder = checkpoint_path(name)
    if not is_folder(folder):
        return _build_pipeline(_published(name, "pipeline"))
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} is not a diffusers pipeline: there is no model_index.json")
    refuse_pipeline_code(folder)
    with load_errors(f"{folder} is not a diffusers pipeline"):
        index = read_json(folder / "model_index.json")
        classes = {key: value[1] for key, value in index.items() if isinstance(value, list)}
        parts = {key: _part_config(folder / key, name) for key, name in classes.items()}
        return _build_pipeline(index | parts)


def _part_config(folder: Path, class_name: str | None) -> dict[str, Any] | None:
    """Class and configuration of a part; None for one without weights or schedule."""
    kind: Any = getattr(diffusers, class_name or "", None)
    if isinstance(kind, type) and issubclass(kind, ConfigMixin):
        loaded: Any = kind.load_config(folder)
        return loaded | {"_class_name": class_name}
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json") | {"_class_name": class_name}
    return None


def _build_pipeline(index: dict[str, Any]) -> Any:
    pipeline = getattr(diffusers, index["_class_name"])
    parameters = inspect.signature(pipeline).parameters
    required = [key for key, value in parameters.items() if value.default is value.empty]
    given = {
        key: _build_part(value) if isinstance(value, dict) else value
        for key, value in index.items()
        if key in parameters
    }
    built = pipeline(**dict.fromkeys(required) | given)
    built.set_progress_bar_config(disable=True)
    if built.scheduler is not None:
        built.scheduler.set_timesteps = _without_device(built.scheduler.set_timesteps)
    return built


def _without_device(set_timesteps: Callable[..., None]) -> Callable[..., None]:
    """Let timesteps stay numbers where the networks have none."""

    @wraps(set_timesteps)
    def run(*positional: Any, device: object = None, **named: Any) -> None:
        del device
        set_timesteps(*positional, **named)

    return run


def _build_part(config: dict[str, Any]) -> Any:
    kind: Any = getattr(diffusers, config["_class_name"], None)
    if kind is None:
        kind = getattr(transformers, config["_class_name"])
        with torch.device("meta"):
            return kind(kind.config_class.from_dict(config))
    if nn.Module not in kind.__mro__:
        return kind.from_config(config)
    with torch.device("meta"):
        network: Any = kind.from_config(config)
    # Timesteps and masks have numbers, and the network has none.
    network.register_forward_pre_hook(_on_meta, with_kwargs=True)
    return network


def _on_meta(_: nn.Module, positional: Any, named: Any) -> Any:
    return send_to_device(positional, "meta"), send_to_device(named, "meta")
