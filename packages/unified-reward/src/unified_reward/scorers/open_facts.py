"""Answers of a user's folder to questions that no published source answers, for ``scorers check``.

Headers, names and small files are read, never weights; a missing or broken file is an answer too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unified_reward.checkpoints.tensor_keys import (
    State,
    read_json,
    read_state,
    refuse_pointers,
    weight_files,
)
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.paths import is_file
from unified_reward.io.text import read_text
from unified_reward.scorers.card import Fact


SAT_FILES = ("1/mp_rank_00_model_states.pt", "*/mp_rank_00_model_states.pt")
SAT_TENSORS = 1190
_LLAMA3 = "0ac333c83e2d107910928928b5912d8ade91594d08c7c73c4606d05c032d7632"
_VIDEO = {
    "config.json": "0fdaf6e7d825b71320d237ec57a107a79ab9964b65216ec3f672686b3807d0e4",
    "model.safetensors.index.json": (
        "b0dddc31695d35df38081f85e65d52c780ccaf6390282f4d1b476c8d5855b866"
    ),
    "tokenizer.json": _LLAMA3,
}
"""SHA-256 of the files of VisionReward-Video as a public run recorded them."""
_INTERNLM2 = "f868398fc4e05ee1e8aeba95ddf18ddcc45b8bce55d5093bead5bbf80429b48b"
_IXC = {
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
"""Values of InternLM-XComposer-2.5, which its reward model's are taken to be."""
_N_NAMES = 12
_N_LINES = 6
_INSTRUCT_END = 128_009
_PARITY = "no file can tell"


def visionreward_video(folder: Path) -> list[Fact]:
    """Answers about a CogVLM2-Video in the layout of transformers."""
    dtypes = _dtypes(folder, ("model.safetensors.index.json", "model.safetensors"))
    return [
        Fact(
            "are rotary angles rounded to bfloat16?",
            _lines(folder / "util.py", "inv_freq"),
            "positions and frequencies multiplied in float32: angles of float32; in the dtype of "
            "inv_freq, or if there is no such line: of bfloat16, the default here",
        ),
        Fact(
            "is it the release that the names were proven on?",
            "; ".join(_compared(folder / name, sha) for name, sha in _VIDEO.items()),
            "the same: names, shapes and tokens are proven; another: they are checked at loading",
        ),
        Fact(
            "in which precision are the weights?",
            dtypes,
            "BF16 is that of the known release; F32 is read too, and cast",
        ),
        Fact(
            "do the numbers agree with the authors' code?",
            _PARITY,
            "run inference-video.py once on asset/test/test1.mp4 of THUDM/VisionReward under "
            "transformers 4.42.4 and compare its 29 answers with the aspects of a score",
        ),
    ]


def visionreward_image(folder: Path) -> list[Fact]:
    """Answers about a CogVLM2 in SAT layout, and about the VQAScore beside it."""
    return [
        Fact(
            "which tensors are there, under which names?",
            _names(folder, SAT_FILES, SAT_TENSORS),
            f"{SAT_TENSORS} and none missing below: the names read from the code are those of the "
            "file; otherwise loading is refused, and the names listed here tell why",
        ),
        Fact(
            "which sizes does the file of SAT give?",
            _config(folder / "model_config.json"),
            "63 layers of 16 heads over 1344 x 1344 pixels in patches of 14: as expected",
        ),
        Fact(
            "is it a tokenizer of Llama 3?",
            _compared(folder / "tokenizer.json", _LLAMA3),
            "the same bytes as VisionReward-Video's: ids are proven; another: the ids of yes and "
            "no are looked up in it",
        ),
        Fact(
            "where does the tokenizer end an answer?",
            _end_token(folder),
            f"at {_INSTRUCT_END} (Instruct) the authors' script never sees the end, reads every "
            "answer as no, and gives 2.354 * alignment - 2.162; here the first token is read",
        ),
        Fact(
            "do the numbers agree with the authors' code?",
            _PARITY,
            "nobody has published one: run inference-image.py on asset/test/test1.jpg of "
            "THUDM/VisionReward and compare its 30 answers with the aspects of a score",
        ),
    ]


def vqascore(folder: Path) -> list[Fact]:
    """Answers about a clip-flant5."""
    files = (
        *("model.safetensors.index.json", "model.safetensors"),
        *("pytorch_model.bin.index.json", "pytorch_model.bin"),
    )
    return [
        Fact(
            "which layer and part of the vision tower does T5 see?",
            _config(folder / "config.json", ("mm_", "vocab_size", "model_type", "tie_word")),
            "mm_vision_select_layer is used as given, -2 where it is absent; mlp2x_gelu and patch "
            "are required",
        ),
        Fact(
            "which tensors are there, is the vision tower among them?",
            _names(folder, files),
            "vision_tower.* among them: complete; none: the stock clip-vit-large-patch14-336 is "
            "needed beside it",
        ),
        Fact(
            "is there a tokenizer?",
            _digest(folder / "spiece.model"),
            "scores are normalised over its pieces and 100 more, 32,100 in all",
        ),
    ]


def ixc(folder: Path) -> list[Fact]:
    """Answers about an InternLM-XComposer-2.5-Reward."""
    files = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
    return [
        Fact(
            "is its configuration that of InternLM-XComposer-2.5?",
            _differences(folder / "config.json", _IXC),
            "heads, epsilon and rotary base are read from it, sizes from the tensors",
        ),
        Fact(
            "which tensors are there, under which names?",
            _names(folder, files, 944),
            "944 of bfloat16 are those whose sizes fit the released files",
        ),
        Fact(
            "is it the known tokenizer?",
            _compared(folder / "tokenizer.model", _INTERNLM2),
            "the same bytes: ids are proven",
        ),
        Fact(
            "which tokens are added to it?",
            _config(folder / "added_tokens.json"),
            "names such as [UNUSED_TOKEN_146]: blanks and newlines around these are stripped; "
            "others are read as plain text here",
        ),
        Fact(
            "is the newline before </s> read?",
            _config(folder / "special_tokens_map.json"),
            "marks that are plain strings: transformers 4.33 strips it, as ixc-2.5-reward does, "
            "but not ixc-2.5-reward-newline; the README's rewards, 5.7617 and -2.8457, decide",
        ),
        Fact(
            "which rule cuts an image into tiles?",
            _lines(folder / "ixc_utils.py", "scale"),
            "a factor of 1.5: 2061 tokens for 512 x 341; none: 841, as here",
        ),
        Fact(
            "which activation has the CLIP tower?",
            _lines(folder / "build_mlp.py", "clip"),
            "hidden_act in the config.json of the repository named there; quick_gelu here",
        ),
    ]


def _read(folder: Path, patterns: Iterable[str]) -> State | str:
    """Names and shapes of the tensors, or the reason that there are none."""
    try:
        refuse_pointers(folder)
        files = weight_files(folder, patterns)
        return read_state(files, shapes_only=True) if files else "no weights"
    except ModelError as error:
        return str(error)


def _dtypes(folder: Path, patterns: Iterable[str]) -> str:
    state = _read(folder, patterns)
    if isinstance(state, str):
        return state
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    return ", ".join(f"{n} tensors of {dtype}" for dtype, n in counts.items())


def _names(folder: Path, patterns: tuple[str, ...], expected: int | None = None) -> str:
    state = _read(folder, patterns)
    if isinstance(state, str):
        return state
    count = f"{len(state)} tensors" + (f", {expected} expected" if expected else "")
    groups = Counter(_stem(name) for name in state)
    listed = [f"{stem} ({n})" for stem, n in groups.most_common(_N_NAMES)]
    rest = len(groups) - len(listed)
    more = [f"{rest} more"] if rest else []
    return f"{count}, {_dtypes(folder, patterns)}: {', '.join([*listed, *more])}"


def _stem(name: str) -> str:
    """Name up to its first number, without the last part."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] if numbers else -1]) or name


def _digest(file: Path) -> str:
    if not is_file(file):
        return f"no {file.name}"
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return f"{file.name} {file.stat().st_size} bytes, sha256 {digest}"


def _compared(file: Path, sha: str) -> str:
    found = _digest(file)
    if found.endswith(sha):
        return f"{file.name} is the same"
    return found if found.startswith("no ") else f"{found}, not {sha[:12]}…"


def _config(file: Path, keys: tuple[str, ...] = ()) -> str:
    try:
        config: dict[str, Any] = read_json(file)
    except ModelError as error:
        return str(error)
    kept = {key: value for key, value in config.items() if not keys or key.startswith(keys)}
    return json.dumps(kept, allow_nan=False)


def _differences(file: Path, expected: Mapping[str, float]) -> str:
    try:
        config = read_json(file)
    except ModelError as error:
        return str(error)
    found = [
        f"{key} {config.get(key)!r}, expected {value}"
        for key, value in expected.items()
        if config.get(key) != value
    ]
    return "; ".join(found) or "all values are as expected"


def _end_token(folder: Path) -> str:
    for name in ("generation_config.json", "tokenizer_config.json"):
        if is_file(folder / name):
            try:
                config = read_json(folder / name)
            except ModelError as error:
                return str(error)
            for key in ("eos_token_id", "eos_token"):
                if key in config:
                    return f"{name}: {key} {config[key]!r}"
    return "no file says"


def _lines(file: Path, word: str) -> str:
    try:
        lines = [line.strip() for line in read_text(file).splitlines() if word in line]
    except DataError as error:
        return str(error)
    return " | ".join(lines[:_N_LINES]) or f"no line of {file.name} holds {word}"
