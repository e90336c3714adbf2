"""Kind of a checkpoint, by its configuration: what cannot be asked about images is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from unified_reward.checkpoints.adapters import adapter_base
from unified_reward.checkpoints.pretrained import load_pretrained
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.paths import is_file
from unified_reward.io.text import read_json


def read_config(source: str | Path) -> Any:
    """Configuration of a vision-language checkpoint; for an adapter, that of its base.

    Args:
        source: A folder or a hub id.

    Raises:
        ModelError: It has no configuration, or its model cannot be asked about images: transformers
            does not know it, it takes or writes no text or no images, or it is an encoder-decoder.
    """
    if (base := adapter_base(source)) is not None:
        return read_config(base)
    if is_file(Path(source) / "model_index.json"):
        raise ModelError(
            f"{source} is not a vision-language checkpoint but a pipeline of diffusers"
        )
    file = Path(source) / "config.json"
    try:
        named = read_json(file).get("model_type") if is_file(file) else None
    except (DataError, AttributeError) as error:
        raise ModelError(f"{file} is not the configuration of a model: {error}") from error
    if isinstance(named, str) and named not in CONFIG_MAPPING:
        raise ModelError(
            f"{source} cannot be loaded: it is of model_type {named!r}, which transformers "
            f"{transformers.__version__} does not know"
        )
    config = load_pretrained(AutoConfig, source)
    kind = config.model_type
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{source} is not a vision-language checkpoint: models of model_type {kind!r} do not "
            "answer in text about images and text"
        )
    if reason := _reason(config):
        raise ModelError(f"{source} cannot be asked: model_type {kind!r} {reason}")
    return config


def _reason(config: Any) -> str | None:
    """Reason why a model cannot be asked about images, seen from its class; None if it may be."""
    model: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    inputs = inspect.signature(model.forward).parameters
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        return "is an encoder-decoder, whose answers do not continue a prompt"
    if "decoder_input_ids" in inputs:
        return "takes the tokens of an answer apart from its prompt, as an encoder-decoder does"
    if not any(part in name for name in inputs for part in ("pixel", "image", "patch")):
        return "takes no images"
    return None if model.can_generate() else "does not write text"
