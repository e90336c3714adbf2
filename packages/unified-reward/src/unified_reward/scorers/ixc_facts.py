"""Open questions about the released folder of IXC-2.5-Reward, and the answers of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from unified_reward.checkpoints.tensor_keys import read_json
from unified_reward.core.errors import DataError, ModelError
from unified_reward.io import text
from unified_reward.scorers.card import Fact


_CONFIG = {
    "vocab_size": 92544,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000,
    "max_length": 16384,
}
"""Values of InternLM-XComposer-2.5, which the reward model's are taken to be."""
_TOKENIZER = "f868398fc4e05ee1e8aeba95ddf18ddcc45b8bce55d5093bead5bbf80429b48b"
_TENSORS, _BYTES = 944, 16_601_518_080
_NONE = "no such file"


def facts_of(folder: Path) -> list[Fact]:
    """The questions, each with what the folder has; missing and broken files are answers too."""
    return [
        Fact("config.json", _config(folder), "heads, epsilon and rotary base are read from it"),
        Fact(
            "tokenizer.model",
            _tokenizer(folder / "tokenizer.model"),
            "another one gives other ids than the known ones",
        ),
        Fact(
            "names of the tensors",
            _names(folder),
            f"{_TENSORS} and {_BYTES:,} bytes are those that this scorer accounts for",
        ),
        Fact(
            "added_tokens.json",
            _content(folder / "added_tokens.json"),
            "names like [UNUSED_TOKEN_146] there would mean that blanks and newlines around these "
            "are stripped; others are read as plain text",
        ),
        Fact(
            "special_tokens_map.json",
            _content(folder / "special_tokens_map.json"),
            "marks that are strings are stripped of the newline before them by transformers 4.33; "
            "the README's example decides between ixc-2.5-reward (5.7617, -2.8457) and "
            "ixc-2.5-reward-newline",
        ),
        Fact(
            "rule of the tiles, lines of ixc_utils.py with `scale`",
            _lines(folder / "ixc_utils.py", "scale"),
            "a factor of 1.5 there would mean more tiles: 2061 tokens for 512 x 341, not 841",
        ),
        Fact(
            "activation of the CLIP tower, lines of build_mlp.py with `clip`",
            _lines(folder / "build_mlp.py", "clip"),
            "hidden_act in the config.json of the repository named there is taken to be quick_gelu",
        ),
    ]


def _config(folder: Path) -> str:
    try:
        config = read_json(folder / "config.json")
    except ModelError as error:
        return str(error)
    other = [
        f"{name} {config.get(name)} (expected {value})"
        for name, value in _CONFIG.items()
        if config.get(name) != value
    ]
    return ", ".join(other) or "as expected"


def _tokenizer(file: Path) -> str:
    if not file.is_file():
        return _NONE
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return "the known one" if digest == _TOKENIZER else f"another one, sha256 {digest}"


def _names(folder: Path) -> str:
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        if (folder / name).is_file():
            try:
                index = read_json(folder / name)
                return f"{len(index['weight_map'])}, {index['metadata']['total_size']:,} bytes"
            except (ModelError, KeyError, TypeError, ValueError):
                return f"{name} is no index of shards"
    return "no index of shards"


def _content(file: Path) -> str:
    if not file.is_file():
        return _NONE
    try:
        content = read_json(file)
    except ModelError as error:
        return str(error)
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _lines(file: Path, word: str) -> str:
    if not file.is_file():
        return _NONE
    try:
        lines = text.read_text(file).splitlines()
    except DataError as error:
        return str(error)
    return " | ".join(line.strip() for line in lines if word in line) or f"none with {word!r}"
