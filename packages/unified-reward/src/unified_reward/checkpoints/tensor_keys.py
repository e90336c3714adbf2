"""Checkpoints by their keys: every tensor of a file is accounted for, or the file is refused.

Only tensors are read: safetensors, or pickles that hold nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unified_reward.core.errors import ModelError


State = Mapping[str, Tensor]
_NESTED = ("state_dict", "model", "module")
"""Where training scripts put the tensors among other things."""
_SHOWN = 4
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class MappedTensor(NamedTuple):
    """A tensor of the module, and the tensors of the file that it is made of."""

    target: str
    value: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True)
class KeyReport:
    """What became of every tensor of a checkpoint."""

    loaded: int
    """Under their own names."""
    renamed: int
    merged: int
    """Made of several, such as a weight and its adapter."""
    ignored: Mapping[str, int]
    """How many, by why."""
    missing: tuple[str, ...] = ()
    """Tensors of the module, in its own names."""
    unexplained: tuple[str, ...] = ()
    """Tensors of the file, in its names."""
    misshapen: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the checkpoint cannot be loaded; empty where it can."""
        told = (
            ("missing", self.missing),
            ("unexplained", self.unexplained),
            ("of another shape", self.misshapen),
        )
        return tuple(f"{len(names)} {what}: {_some(names)}" for what, names in told if names)

    def __str__(self) -> str:
        """One line for people."""
        ignored = [f"{n} ignored ({why})" for why, n in self.ignored.items()]
        counts = [f"{self.loaded} loaded", f"{self.renamed} renamed", f"{self.merged} merged"]
        return ", ".join([*counts, *ignored, *self.problems])


def read_state(files: Sequence[Path], *, shapes_only: bool = False) -> dict[str, Tensor]:
    """All tensors of some files.

    Args:
        files: ``.safetensors``, or pickles of tensors, bare or under a name such as ``state_dict``.
        shapes_only: Give tensors without data (device ``meta``), reading headers only.

    Raises:
        ModelError: A file is broken, holds more than tensors, or a tensor that another one holds.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        read = _safetensors if file.suffix == ".safetensors" else _pickled
        held = read(file, shapes_only=shapes_only)
        if twice := sorted(state.keys() & held.keys()):
            raise ModelError(
                f"{file} and another file both hold {_some(twice)}: "
                "leave the files of one checkpoint only"
            )
        state |= held
    return state


def _safetensors(file: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            if not shapes_only:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: torch.empty(one.get_shape(), dtype=_DTYPES[one.get_dtype()], device="meta")
                for name, one in slices.items()
            }
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{file} is broken or cut off: {error}") from error


def _pickled(file: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    device = "meta" if shapes_only else "cpu"
    try:
        held = torch.load(file, map_location=device, weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{file} holds more than tensors and is not unpickled, since a pickle can run code: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is broken or cut off: {error}") from error
    for name in _NESTED:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    if not isinstance(held, dict):
        raise ModelError(f"{file} holds a {type(held).__name__}, not tensors by name")
    return {name: one for name, one in held.items() if isinstance(one, Tensor)}


def weight_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of the first pattern that is there, an index of shards as its shards.

    Of folders such as ``checkpoint-*/model.pth`` the one with the largest number counts.

    Raises:
        ModelError: An index names shards that are not there, or is none.
    """
    for pattern in patterns:
        found = sorted(folder.glob(pattern), key=_number)
        if found and found[-1].name.endswith(".index.json"):
            return _shards(found[-1])
        if found:
            return found[-1:]
    return []


def _number(file: Path) -> int:
    digits = re.findall(r"\d+", file.parent.name)
    return int(digits[-1]) if digits else 0


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of shards: {error}") from error
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise ModelError(f"{index.parent} lacks {len(lost)} of {len(names)} shards: {_some(lost)}")
    return [index.parent / name for name in names]


def rename_keys(state: State, rules: Sequence[tuple[str, str]]) -> Iterator[MappedTensor]:
    """Every tensor under a new name: all rules, regular expressions, one after the other."""
    for source, value in state.items():
        target = source
        for pattern, replacement in rules:
            target = re.sub(pattern, replacement, target)
        yield MappedTensor(target, value, (source,))


def lora_scale(rank: int, alpha: float, *, stabilised: bool) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` where rank-stabilised (arXiv:2312.03732)."""
    return alpha / math.sqrt(rank) if stabilised else alpha / rank


def merge_lora(pieces: Iterable[MappedTensor], scale: float) -> Iterator[MappedTensor]:
    """Adapters added to the weights they stand beside: ``W + scale * B @ A``.

    Names as PEFT gives them: ``X.base_layer.weight``, ``X.lora_A.default.weight``, and B likewise
    (Hu et al. 2021, arXiv:2106.09685, section 4.1). An adapter without its other half passes
    through, and is then unexplained.
    """
    held: dict[str, MappedTensor] = {}
    for one in pieces:
        if held.setdefault(one.target, one) is not one:
            yield one
    for target, piece in held.items():
        stem, base, rest = target.partition(".base_layer.")
        low, high = (held.get(f"{stem}.lora_{x}.default.weight") for x in "AB")
        if base and rest == "weight" and low and high:
            delta = high.value.float() @ low.value.float() * scale
            value = (piece.value.float() + delta).to(piece.value.dtype)
            sources = piece.sources + low.sources + high.sources
            yield MappedTensor(f"{stem}.weight", value, sources)
        elif base:
            yield MappedTensor(f"{stem}.{rest}", piece.value, piece.sources)
        elif not _is_merged(target, held):
            yield piece


def _is_merged(target: str, held: Mapping[str, MappedTensor]) -> bool:
    stem, mark, _ = target.partition(".lora_")
    both = {f"{stem}.lora_{x}.default.weight" for x in "AB"} <= held.keys()
    return bool(mark) and both and f"{stem}.base_layer.weight" in held


def match_keys(
    module: nn.Module, pieces: Iterable[MappedTensor], ignored: Mapping[str, str]
) -> tuple[dict[str, Tensor], KeyReport]:
    """Hold the tensors of a file against those of a module; a second one for a place is left over.

    Args:
        module: What is to be filled.
        pieces: Every tensor of the file, translated.
        ignored: Regular expressions of names in the file that are left out on purpose, with why.

    Returns:
        The tensors that fit, by the module's names, and what became of all.
    """
    wanted = {name: one.shape for name, one in module.state_dict().items()}
    fitting: dict[str, Tensor] = {}
    kinds: Counter[str] = Counter()
    left: Counter[str] = Counter()
    unexplained: list[str] = []
    misshapen: list[str] = []
    met: set[str] = set()
    for target, value, sources in pieces:
        if target in wanted and target not in met:
            met.add(target)
            if value.shape == wanted[target]:
                fitting[target] = value
            else:
                shapes = f"{tuple(value.shape)} for {tuple(wanted[target])}"
                misshapen.append(f"{sources[0]} {shapes}")
            kind = "loaded" if sources == (target,) else "renamed"
            kinds[kind if len(sources) == 1 else "merged"] += 1
            continue
        for source in sources:
            why = next((w for key, w in ignored.items() if re.fullmatch(key, source)), None)
            if why is None:
                unexplained.append(source)
            else:
                left[why] += 1
    report = KeyReport(
        kinds["loaded"],
        kinds["renamed"],
        kinds["merged"],
        dict(left),
        tuple(one for one in wanted if one not in met),
        tuple(unexplained),
        tuple(misshapen),
    )
    return fitting, report


def shape(state: State, name: str) -> torch.Size:
    """Shape of a tensor that says how large a model is.

    Raises:
        ModelError: It is not there, so this is not the checkpoint that was meant.
    """
    if name not in state:
        raise ModelError(
            f"there is no {name} among its {len(state)} tensors, which begin with "
            f"{_some([*state])}; these are other weights"
        )
    return state[name].shape


def depth(state: State, stem: str) -> int:
    """How many layers ``STEM.0.…``, ``STEM.1.…`` there are.

    >>> depth({"h.0.w": torch.zeros(1), "h.10.w": torch.zeros(1), "x.3": torch.zeros(1)}, "h")
    11
    """
    found = (re.match(rf"{re.escape(stem)}\.(\d+)\.", name) for name in state)
    return 1 + max((int(one[1]) for one in found if one), default=-1)


def read_json(file: Path) -> dict[str, Any]:
    """An object in a JSON file.

    Raises:
        ModelError: It is missing, or no object.
    """
    try:
        held = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(held, dict):
        raise ModelError(f"{file} holds a {type(held).__name__}, not an object")
    return held


def square_side(tokens: int, *, without: int = 1) -> int:
    """Patches along a side of a square picture that has so many tokens, class token included."""
    return math.isqrt(tokens - without)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
