"""Original LLaVA-NeXT checkpoints (``LlavaQwenForCausalLM``) as transformers' LLaVA-OneVision.

Knows names, shapes and settings; the bytes pass through ``shards``, so that a laptop converts what
it cannot load.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from unified_reward.checkpoints import shards
from unified_reward.checkpoints.llava_config import (
    HEAD,
    TOWER,
    build_processor,
    convert_config,
    read_tokenizer,
    unsupported_settings,
)
from unified_reward.checkpoints.shards import Shard, TensorSpec
from unified_reward.checkpoints.tensor_keys import (
    KeyReport,
    MappedTensor,
    State,
    match_keys,
    read_json,
    read_state,
    rename_keys,
    weight_files,
)
from unified_reward.core.errors import ConfigError, ModelError


_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_RULES = (
    (r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1."),
    (rf"^{re.escape(TOWER)}\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
)
_HUB = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    (r"^model\.(multi_modal_projector\.|image_newline$)", r"\1"),
)
"""From transformers 5's names to those of the folders of ``llava-hf``, which vLLM reads too."""


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion writes, told from headers alone."""

    source: Path
    problems: tuple[str, ...]
    """Why it is refused; empty where it is not."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of the new checkpoint; empty where the old one cannot be carried over."""
    keys: KeyReport | None = None
    """None where there is no config to hold the tensors against."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Why a tensor is left out, by its name."""
    notes: tuple[str, ...] = ()
    """What is not as it was."""
    shards: tuple[Shard, ...] = ()
    fingerprint: str = ""
    """Of all that decides what is written; a stopped conversion goes on under the same alone."""

    @property
    def names(self) -> dict[str, str]:
        """New names by the old."""
        return {one.source: one.name for shard in self.shards for one in shard.tensors}

    @property
    def n_bytes(self) -> int:
        """Of weights to write."""
        return sum(one.n_bytes for one in self.shards)


def plan(folder: str | Path, *, dtype: str | None = None) -> ConversionPlan:
    """Say what converting a checkpoint would give; reads headers, writes nothing.

    Args:
        folder: The original checkpoint: ``config.json``, weights, tokenizer.
        dtype: ``float32``, ``bfloat16`` or ``float16``; default as stored.

    Raises:
        ModelError: The folder lacks a file, or one cannot be read.
        ConfigError: There is no such dtype.
    """
    folder = Path(folder)
    wanted = getattr(torch, dtype) if dtype in ("float32", "bfloat16", "float16") else None
    if dtype and not wanted:
        raise ConfigError(f"dtype is {dtype!r}; it must be float32, bfloat16 or float16")
    original = read_json(folder / "config.json")
    files = weight_files(folder, _WEIGHTS)
    if not files:
        raise ModelError(f"{folder} has no weights ({' or '.join(_WEIGHTS)})")
    found = [
        (str(file.relative_to(folder)), name, one)
        for file in files
        for name, one in _headers(file).items()
    ]
    if problems := unsupported_settings(original):
        return ConversionPlan(folder, problems)
    state = {name: one for _, name, one in found}
    tokenizer = read_tokenizer(folder)
    try:
        config = convert_config(original, tokenizer, state, wanted)
    except ModelError as error:
        return ConversionPlan(folder, (str(error),))
    tensors, keys, ignored = _accounted(original, config, found, wanted)
    problems = (*keys.problems, *_doubts(original, config, tokenizer, tensors, keys))
    parts = () if problems else shards.split_into_shards(tensors)
    stats = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    digest = hashlib.sha256(repr((config, stats, parts)).encode()).hexdigest()
    notes = _notes(original, config, state)
    return ConversionPlan(folder, problems, config, keys, ignored, notes, parts, digest)


def convert(
    folder: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> ConversionPlan:
    """Convert an original checkpoint to a folder that transformers loads.

    Args:
        folder: As for `plan`.
        out: A new folder, or one where the same conversion was stopped, which then goes on.
        dtype: As for `plan`.
        progress: Called with the number of tensors just done.

    Raises:
        ModelError: As for `plan` and `write`.
        ConfigError: There is no such dtype.
    """
    made = plan(folder, dtype=dtype)
    write(made, out, progress=progress)
    return made


def write(
    plan: ConversionPlan, out: str | Path, *, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Carry out a plan. ``config.json`` comes last: a folder without is unfinished.

    Raises:
        ModelError: The plan has problems, ``out`` holds something else, or the disk has no room.
    """
    if plan.problems:
        raise ModelError(f"{plan.source} cannot be converted: {'; '.join(plan.problems)}")
    out = Path(out)
    source = str(plan.source.resolve())
    told = {"tensors": str(plan.keys), "ignored": plan.ignored, "notes": plan.notes}
    shards.prepare_folder(out, plan.shards, {"plan": plan.fingerprint, "source": source, **told})
    shards.write(plan.shards, plan.source, out, progress)
    build_processor(plan.source, plan.config).save_pretrained(out)
    if (plan.source / "generation_config.json").is_file():
        shutil.copyfile(plan.source / "generation_config.json", out / "generation_config.json")
    shards.put(out / "config.json", plan.config)


def hub_name(name: str) -> str:
    """What a tensor of transformers 5 is called in a published folder.

    >>> hub_name("model.vision_tower.encoder.layers.0.mlp.fc1.bias")
    'vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias'
    """
    for pattern, replacement in _HUB:
        name = re.sub(pattern, replacement, name)
    return name


def _headers(file: Path) -> dict[str, Tensor]:
    told = read_state([file], shapes_only=True)
    if file.suffix != ".safetensors":
        with shards.open_weights(file):
            pass
    return told


def _accounted(
    original: Mapping[str, Any],
    config: Mapping[str, Any],
    found: Sequence[tuple[str, str, Tensor]],
    dtype: torch.dtype | None,
) -> tuple[list[TensorSpec], KeyReport, dict[str, str]]:
    """What to write, the report, and why tensors are left out, by name."""
    tied, rows = config["tie_word_embeddings"], config["text_config"]["vocab_size"]
    unread = rf"{re.escape(TOWER)}\.encoder\.layers\.{config['vision_config']['num_hidden_layers']}"
    reasons = {
        r".*\.inv_freq": "computed from rope_theta",
        rf"{unread}\..*": "the last layer of the vision tower, behind the one that is read",
        rf"{re.escape(TOWER)}\.head\..*": "the head of the vision tower, which is not read",
    } | ({re.escape(HEAD): "tied to the embedding by config.json"} if tied else {})
    rules = (*_RULES, *([(f"^{re.escape(HEAD)}$", "")] if tied else []))
    pieces: list[MappedTensor] = []
    for _, name, one in found:
        if name in ("model.embed_tokens.weight", HEAD) and one.shape[:1] == (
            original["vocab_size"],
        ):
            one = one.new_empty(rows, *one.shape[1:])  # noqa: PLW2901
        pieces += rename_keys({name: one}, rules)
    with torch.device("meta"):
        skeleton = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**config))
    fitting, keys = match_keys(skeleton, pieces, reasons)
    if tied:
        keys = replace(keys, missing=tuple(one for one in keys.missing if one != HEAD))
    written: list[TensorSpec] = []
    for (file, name, one), (target, value, _) in zip(found, pieces, strict=True):
        if target in fitting:
            kind = dtype if dtype and one.is_floating_point() else one.dtype
            written.append(TensorSpec(hub_name(target), name, file, tuple(value.shape), kind))
    ignored = {
        name: why for _, name, _ in found for key, why in reasons.items() if re.fullmatch(key, name)
    }
    return written, keys, ignored


def _doubts(
    original: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Any,
    tensors: Sequence[TensorSpec],
    keys: KeyReport,
) -> list[str]:
    """What shapes and names do not tell."""
    told: list[str] = []
    counts = Counter(one.name for one in tensors)
    if twice := [f"{one.source} of {one.file}" for one in tensors if counts[one.name] > 1]:
        told.append(f"there twice: {', '.join(twice[:4])}")
    if other := [f"{one.source} ({one.dtype})" for one in tensors if one.dtype not in shards.CODES]:
        told.append(f"no floating point numbers: {', '.join(other[:4])}")
    if HEAD in keys.missing:
        told.append(
            "tie_word_embeddings is false in config.json; true would need no lm_head.weight"
        )
    given, made = original.get("image_token_index"), config["image_token_index"]
    if given not in (None, made):
        held = tokenizer.convert_ids_to_tokens(given) if isinstance(given, int) else None
        told.append(
            f"image_token_index is {given} in config.json, but its tokenizer has {held!r} there "
            f"and <image> at {made}"
        )
    return told


def _notes(original: Mapping[str, Any], config: Mapping[str, Any], state: State) -> tuple[str, ...]:
    told: list[str] = []
    if more := config["text_config"]["vocab_size"] - original["vocab_size"]:
        told.append(f"{more} rows of zeros added to the embedding, for tokens that had none")
    if HEAD not in state:
        told.append("no lm_head.weight: it speaks with its embedding")
    newline = original.get("mm_newline_position", "one_token")
    if newline != "one_token":
        told.append(f"a clip ends in one newline, not in {newline!r} as config.json says")
    return tuple(told)
