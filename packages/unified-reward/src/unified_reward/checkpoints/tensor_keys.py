"""Strict loading of checkpoints: every tensor of a file is accounted for, or it is refused.

Only tensors are read: safetensors, or pickles that hold nothing else.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unified_reward.core.errors import DataError, ModelError, one_line
from unified_reward.core.paths import is_folder
from unified_reward.io import text


State = Mapping[str, Tensor]
_NESTED = ("state_dict", "model", "module")
"""Keys under which training scripts nest the state dict."""
_N_NAMED = 4
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
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
    """A tensor under its name in the module, and the names of its tensors in the file."""

    target: str
    value: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True)
class KeyReport:
    """Account of every tensor of a checkpoint."""

    loaded: int
    """Number of tensors loaded under their own names."""
    renamed: int
    """Number of tensors loaded under another name."""
    merged: int
    """Number of tensors made of several, such as a weight and its adapter."""
    ignored: Mapping[str, int]
    """Number of tensors left out on purpose, by reason."""
    missing: tuple[str, ...] = ()
    """Tensors of the module that the file lacks, by the module's names."""
    unexplained: tuple[str, ...] = ()
    """Tensors of the file that nothing takes, by the file's names."""
    wrong_shape: tuple[str, ...] = ()
    """Tensors of another shape than the module's, with both shapes."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons why the checkpoint cannot be loaded; empty if it can."""
        kinds = (
            ("missing", self.missing),
            ("unexplained", self.unexplained),
            ("of another shape", self.wrong_shape),
        )
        return tuple(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)

    def __str__(self) -> str:
        """One line with all counts and problems."""
        ignored = [f"{n} ignored ({why})" for why, n in self.ignored.items()]
        counts = [f"{self.loaded} loaded", f"{self.renamed} renamed", f"{self.merged} merged"]
        return ", ".join([*counts, *ignored, *self.problems])


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder with files that Git LFS has not fetched.

    Raises:
        ModelError: A file holds its name in Git LFS in place of its content.
    """
    for file in sorted(folder.iterdir()) if is_folder(folder) else ():
        if file.is_file() and file.stat().st_size < _POINTER_BYTES:
            with file.open("rb") as opened:
                if opened.read(len(_POINTER)) == _POINTER:
                    raise ModelError(f"{file} is a Git LFS pointer; run git lfs pull in {folder}")


def read_state(files: Sequence[Path], *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read all tensors of some files.

    Args:
        files: ``.safetensors``, or pickles of tensors, bare or under a name such as ``state_dict``.
        shapes_only: Read headers only, and return tensors on the ``meta`` device.

    Raises:
        ModelError: A file is broken or holds more than tensors, or two files have the same tensor.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        read = _safetensors if file.suffix == ".safetensors" else _pickled
        tensors = read(file, shapes_only=shapes_only)
        if twice := sorted(state.keys() & tensors.keys()):
            raise ModelError(
                f"{file} and another file both hold {_some(twice)}: "
                "leave the files of one checkpoint only"
            )
        state |= tensors
    return state


def _safetensors(file: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            if not shapes_only:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: torch.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{file} is broken or cut off: {one_line(error)}") from error


def _pickled(file: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    device = "meta" if shapes_only else "cpu"
    try:
        # mapped, a file of any size is neither read for its shapes nor held twice
        mapped = zipfile.is_zipfile(file)
        content = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ModelError(
            f"{file} holds more than tensors and is not unpickled, since a pickle can run code"
            + (f": it names {named[1]}" if named else "")
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is broken or cut off: {one_line(error)}") from error
    for name in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, not tensors by name")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def weight_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Find the files of the first pattern that matches; an index of shards gives its shards.

    Of folders such as ``checkpoint-*/model.pth`` the one with the largest number counts.

    Raises:
        ModelError: An index is broken, or names shards that do not exist.
    """
    for pattern in patterns:
        files = sorted(folder.glob(pattern), key=_number)
        if files and files[-1].name.endswith(".index.json"):
            return _shards(files[-1])
        if files:
            return files[-1:]
    return []


def _number(file: Path) -> int:
    digits = re.findall(r"\d+", file.parent.name)
    return int(digits[-1]) if digits else 0


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(text.read_json(index)["weight_map"].values()))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of shards: {error}") from error
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise ModelError(f"{index.parent} lacks {len(lost)} of {len(names)} shards: {_some(lost)}")
    return [index.parent / name for name in names]


def rename_keys(state: State, rules: Sequence[tuple[str, str]]) -> Iterator[MappedTensor]:
    """Rename every tensor by all rules (regular expression, replacement), one after the other."""
    for source, value in state.items():
        target = source
        for pattern, replacement in rules:
            target = re.sub(pattern, replacement, target)
        yield MappedTensor(target, value, (source,))


def lora_scale(rank: int, alpha: float, *, stabilised: bool) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` if rank-stabilised (arXiv:2312.03732)."""
    return alpha / math.sqrt(rank) if stabilised else alpha / rank


def merge_lora(tensors: Iterable[MappedTensor], scale: float) -> Iterator[MappedTensor]:
    """Merge LoRA adapters into the weights beside them: ``W + scale * B @ A``.

    Names as PEFT gives them: ``X.base_layer.weight``, ``X.lora_A.default.weight``, and B likewise
    (Hu et al. 2021, arXiv:2106.09685, section 4.1). An adapter without its other half passes
    through, and is then unexplained.
    """
    by_name: dict[str, MappedTensor] = {}
    for tensor in tensors:
        if by_name.setdefault(tensor.target, tensor) is not tensor:
            yield tensor
    for target, tensor in by_name.items():
        stem, base, rest = target.partition(".base_layer.")
        low, high = (by_name.get(f"{stem}.lora_{x}.default.weight") for x in "AB")
        if base and rest == "weight" and low and high:
            delta = high.value.float() @ low.value.float() * scale
            value = (tensor.value.float() + delta).to(tensor.value.dtype)
            sources = tensor.sources + low.sources + high.sources
            yield MappedTensor(f"{stem}.weight", value, sources)
        elif base:
            yield MappedTensor(f"{stem}.{rest}", tensor.value, tensor.sources)
        elif not _is_merged(target, by_name):
            yield tensor


def _is_merged(target: str, by_name: Mapping[str, MappedTensor]) -> bool:
    stem, mark, _ = target.partition(".lora_")
    both = {f"{stem}.lora_{x}.default.weight" for x in "AB"} <= by_name.keys()
    return bool(mark) and both and f"{stem}.base_layer.weight" in by_name


def match_keys(
    module: nn.Module, tensors: Iterable[MappedTensor], ignored: Mapping[str, str]
) -> tuple[dict[str, Tensor], KeyReport]:
    """Match the tensors of a file with those of a module.

    A second tensor with the same name in the module is unexplained.

    Args:
        module: The module to be loaded.
        tensors: Every tensor of the file, under its name in the module.
        ignored: Regular expressions of names in the file that are left out on purpose, with the
            reason.

    Returns:
        The tensors that fit, by the module's names, and an account of all.
    """
    wanted = {name: weight.shape for name, weight in module.state_dict().items()}
    fitting: dict[str, Tensor] = {}
    kinds: Counter[str] = Counter()
    left: Counter[str] = Counter()
    unexplained: list[str] = []
    wrong_shape: list[str] = []
    met: set[str] = set()
    for target, value, sources in tensors:
        if target in wanted and target not in met:
            met.add(target)
            if value.shape == wanted[target]:
                fitting[target] = value
            else:
                shapes = f"{tuple(value.shape)} for {tuple(wanted[target])}"
                wrong_shape.append(f"{sources[0]} {shapes}")
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
        tuple(name for name in wanted if name not in met),
        tuple(unexplained),
        tuple(wrong_shape),
    )
    return fitting, report


def shape(state: State, name: str) -> torch.Size:
    """Shape of a tensor from which the size of a model is read.

    Raises:
        ModelError: There is no such tensor, so this is another checkpoint.
    """
    if name not in state:
        raise ModelError(
            f"there is no {name} among its {len(state)} tensors, which begin with "
            f"{_some([*state])}; these are other weights"
        )
    return state[name].shape


def depth(state: State, stem: str) -> int:
    """Number of layers ``STEM.0.…``, ``STEM.1.…``.

    >>> depth({"h.0.w": torch.zeros(1), "h.10.w": torch.zeros(1), "x.3": torch.zeros(1)}, "h")
    11
    """
    matches = (re.match(rf"{re.escape(stem)}\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ModelError: The file is missing or broken, or holds something else.
    """
    try:
        return text.read_json(file)
    except DataError as error:
        raise ModelError(str(error)) from error


def square_side(tokens: int, *, without: int = 1) -> int:
    """Patches along a side of a square image of so many tokens, ``without`` of them no patches."""
    return math.isqrt(tokens - without)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _N_NAMED
    return ", ".join(names[:_N_NAMED]) + (f" and {rest} more" if rest > 0 else "")
