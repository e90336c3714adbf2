"""Original LLaVA-NeXT checkpoints (``LlavaQwenForCausalLM``) as transformers' LLaVA-OneVision.

Knows names, shapes and settings; tensors are copied one at a time by ``shards``, so that a laptop
converts models it cannot load.
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
from unified_reward.io.atomic import write_json


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
"""Names of transformers 5 to those of the folders of ``llava-hf``, which vLLM reads too."""


@dataclass(frozen=True)
class ConversionPlan:
    """Result of planning a conversion from headers alone."""

    source: Path
    problems: tuple[str, ...]
    """Reasons why the checkpoint is refused; empty if it is not."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Config of the new checkpoint; empty if the original cannot be converted."""
    keys: KeyReport | None = None
    """Account of the tensors; None without a config."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Reason why a tensor is left out, by its name."""
    notes: tuple[str, ...] = ()
    """Differences between the original and the converted configuration."""
    shards: tuple[Shard, ...] = ()
    """Files to write."""
    fingerprint: str = ""
    """Hash of everything that decides what is written; only the same plan resumes a conversion."""

    @property
    def names(self) -> dict[str, str]:
        """New names of the tensors by their original names."""
        return {tensor.source: tensor.name for shard in self.shards for tensor in shard.tensors}

    @property
    def n_bytes(self) -> int:
        """Size of the weights to write."""
        return sum(shard.n_bytes for shard in self.shards)


def plan(folder: str | Path, *, dtype: str | None = None) -> ConversionPlan:
    """Plan the conversion of a checkpoint; reads headers, writes nothing.

    Args:
        folder: The original checkpoint: ``config.json``, weights, tokenizer.
        dtype: ``float32``, ``bfloat16`` or ``float16``; default as stored.

    Raises:
        ModelError: The folder lacks a file, or one cannot be read.
        ConfigError: The dtype is another one.
    """
    folder = Path(folder)
    wanted = getattr(torch, dtype) if dtype in ("float32", "bfloat16", "float16") else None
    if dtype and not wanted:
        raise ConfigError(f"dtype is {dtype!r}; it must be float32, bfloat16 or float16")
    original = read_json(folder / "config.json")
    files = weight_files(folder, _WEIGHTS)
    if not files:
        raise ModelError(f"{folder} has no weights ({' or '.join(_WEIGHTS)})")
    stored = [
        (str(file.relative_to(folder)), name, tensor)
        for file in files
        for name, tensor in _read_headers(file).items()
    ]
    if problems := unsupported_settings(original):
        return ConversionPlan(folder, problems)
    state = {name: tensor for _, name, tensor in stored}
    tokenizer = read_tokenizer(folder)
    try:
        config = convert_config(original, tokenizer, state, wanted)
    except ModelError as error:
        return ConversionPlan(folder, (str(error),))
    tensors, keys, ignored = _map_tensors(original, config, stored, wanted)
    problems = (*keys.problems, *_other_problems(original, config, tokenizer, tensors, keys))
    parts = () if problems else shards.split_into_shards(tensors)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((config, stats, parts)).encode()).hexdigest()
    notes = _notes(original, config, state)
    return ConversionPlan(folder, problems, config, keys, ignored, notes, parts, digest)


def write(
    plan: ConversionPlan, out: str | Path, *, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Write the converted folder; ``config.json`` comes last: a folder without it is unfinished.

    Args:
        plan: The plan of the conversion.
        out: A new folder, or one where the same conversion was stopped, which then resumes.
        progress: Called with the number of tensors just written.

    Raises:
        ModelError: The plan has problems, ``out`` holds something else, or the disk has no room.
        DataError: A file cannot be written.
    """
    if plan.problems:
        raise ModelError(f"{plan.source} cannot be converted: {'; '.join(plan.problems)}")
    out = Path(out)
    record = {
        "plan": plan.fingerprint,
        "source": str(plan.source.resolve()),
        "tensors": str(plan.keys),
        "ignored": plan.ignored,
        "notes": plan.notes,
    }
    shards.prepare_folder(out, plan.shards, record)
    shards.write(plan.shards, plan.source, out, progress)
    build_processor(plan.source, plan.config).save_pretrained(out)
    if (plan.source / "generation_config.json").is_file():
        shutil.copyfile(plan.source / "generation_config.json", out / "generation_config.json")
    write_json(out / "config.json", plan.config)


def hub_name(name: str) -> str:
    """Name of a transformers 5 tensor in the published folders of ``llava-hf``.

    >>> hub_name("model.vision_tower.encoder.layers.0.mlp.fc1.bias")
    'vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias'
    """
    for pattern, replacement in _HUB:
        name = re.sub(pattern, replacement, name)
    return name


def _read_headers(file: Path) -> dict[str, Tensor]:
    tensors = read_state([file], shapes_only=True)
    if file.suffix != ".safetensors":
        with shards.open_weights(file):
            pass
    return tensors


def _map_tensors(
    original: Mapping[str, Any],
    config: Mapping[str, Any],
    stored: Sequence[tuple[str, str, Tensor]],
    dtype: torch.dtype | None,
) -> tuple[list[TensorSpec], KeyReport, dict[str, str]]:
    """Tensors to write, an account of all, and the reason for each one left out, by name."""
    is_tied, rows = config["tie_word_embeddings"], config["text_config"]["vocab_size"]
    unread = rf"{re.escape(TOWER)}\.encoder\.layers\.{config['vision_config']['num_hidden_layers']}"
    reasons = {
        r".*\.inv_freq": "computed from rope_theta",
        rf"{unread}\..*": "the last layer of the vision tower, behind the one that is read",
        rf"{re.escape(TOWER)}\.head\..*": "the head of the vision tower, which is not read",
    } | ({re.escape(HEAD): "tied to the embedding by config.json"} if is_tied else {})
    rules = (*_RULES, *([(f"^{re.escape(HEAD)}$", "")] if is_tied else []))
    mapped: list[MappedTensor] = []
    for _, name, tensor in stored:
        is_vocabulary = name in ("model.embed_tokens.weight", HEAD)
        if is_vocabulary and tensor.shape[:1] == (original["vocab_size"],):
            mapped += rename_keys({name: tensor.new_empty(rows, *tensor.shape[1:])}, rules)
        else:
            mapped += rename_keys({name: tensor}, rules)
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**config))
    fitting, keys = match_keys(model, mapped, reasons)
    if is_tied:
        keys = replace(keys, missing=tuple(name for name in keys.missing if name != HEAD))
    specs: list[TensorSpec] = []
    for (file, name, tensor), (target, value, _) in zip(stored, mapped, strict=True):
        if target in fitting:
            kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
            specs.append(TensorSpec(hub_name(target), name, file, tuple(value.shape), kind))
    ignored = {
        name: reason
        for _, name, _ in stored
        for key, reason in reasons.items()
        if re.fullmatch(key, name)
    }
    return specs, keys, ignored


def _other_problems(
    original: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Any,
    tensors: Sequence[TensorSpec],
    keys: KeyReport,
) -> list[str]:
    """Problems that names and shapes do not show."""
    problems: list[str] = []
    counts = Counter(tensor.name for tensor in tensors)
    if twice := [f"{t.source} of {t.file}" for t in tensors if counts[t.name] > 1]:
        problems.append(f"there twice: {', '.join(twice[:4])}")
    if other := [f"{t.source} ({t.dtype})" for t in tensors if t.dtype not in shards.CODES]:
        problems.append(f"no floating point numbers: {', '.join(other[:4])}")
    if HEAD in keys.missing:
        problems.append(
            "tie_word_embeddings is false in config.json; true would need no lm_head.weight"
        )
    given, right = original.get("image_token_index"), config["image_token_index"]
    if given not in (None, right):
        token = tokenizer.convert_ids_to_tokens(given) if isinstance(given, int) else None
        problems.append(
            f"image_token_index is {given} in config.json, but its tokenizer has {token!r} there "
            f"and <image> at {right}"
        )
    return problems


def _notes(original: Mapping[str, Any], config: Mapping[str, Any], state: State) -> tuple[str, ...]:
    notes: list[str] = []
    if more := config["text_config"]["vocab_size"] - original["vocab_size"]:
        notes.append(f"{more} rows of zeros added to the embedding, for tokens that had none")
    if HEAD not in state:
        notes.append("no lm_head.weight: the output layer is tied to the embedding")
    newline = original.get("mm_newline_position", "one_token")
    if newline != "one_token":
        notes.append(f"a video ends in one newline, not in {newline!r} as config.json says")
    return tuple(notes)
