"""Tensors of some files under other names in others: one at a time, going on where a run stopped.

Knows bytes, not what the tensors are for.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unified_reward.checkpoints.tensor_keys import read_json
from unified_reward.core.errors import ModelError


SHARD_BYTES = 2 * 10**9
"""Of data in a file that holds more than one tensor."""
RECORD = "conversion.json"
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""Types as a safetensors header names them."""
_PART = ".part"


class TensorSpec(NamedTuple):
    """A tensor to write, and where it comes from."""

    name: str
    source: str
    file: str
    shape: tuple[int, ...]
    """That of its source, or with more rows, which become zero."""
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


class Shard(NamedTuple):
    """A file to write."""

    name: str
    tensors: tuple[TensorSpec, ...]

    @property
    def header(self) -> bytes:
        """What stands before the data in a safetensors file."""
        told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for one in self.tensors:
            start, end = end, end + one.n_bytes
            where = {"shape": one.shape, "data_offsets": (start, end)}
            told[one.name] = {"dtype": CODES[one.dtype], **where}
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def n_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + sum(one.n_bytes for one in self.tensors)


def split_into_shards(tensors: Sequence[TensorSpec]) -> tuple[Shard, ...]:
    """Tensors by the files they go to, in their order."""
    groups: list[list[TensorSpec]] = []
    held = 0
    for one in tensors:
        if not groups or held + one.n_bytes > SHARD_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(one)
        held += one.n_bytes
    # Wider types first, as safetensors has them, so that all stay aligned.
    ordered = [sorted(group, key=lambda one: -one.dtype.itemsize) for group in groups]
    return tuple(
        Shard(f"model-{i:05}-of-{len(groups):05}.safetensors", tuple(group))
        for i, group in enumerate(ordered, 1)
    )


@contextmanager
def open_weights(file: Path) -> Iterator[Callable[[str], Tensor]]:
    """A file of weights as a function that reads a tensor by its name.

    Raises:
        ModelError: It cannot be read tensor by tensor.
    """
    with ExitStack() as stack:
        try:
            if file.suffix == ".safetensors":
                read = stack.enter_context(safe_open(file, "pt")).get_tensor
            else:
                held = torch.load(file, "cpu", weights_only=True, mmap=True)
                read = held.__getitem__
                if not all(isinstance(one, Tensor) for one in held.values()):
                    raise RuntimeError("it holds more than tensors by their names")
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{file} cannot be read tensor by tensor: {error}") from error
        yield read


def prepare_folder(out: Path, shards: Sequence[Shard], record: Mapping[str, Any]) -> None:
    """Make a folder that of one conversion, or find that it is.

    Args:
        out: New, empty, or begun for the same ``plan``.
        shards: What it is to hold.
        record: Its ``plan`` tells conversions apart, its ``source`` is for people.

    Raises:
        ModelError: It holds anything else, or the disk has no room.
    """
    if (out / RECORD).is_file():
        held = read_json(out / RECORD)
        if held.get("plan") != record["plan"]:
            raise ModelError(
                f"{out} holds another conversion, of {held.get('source')}, or of the same before "
                "it changed; name another folder, or delete this one"
            )
    elif out.exists() and not out.is_dir():
        raise ModelError(f"{out} is a file, not a folder")
    elif out.is_dir() and any(not one.name.endswith(_PART) for one in out.iterdir()):
        raise ModelError(f"{out} is not empty, and no conversion was begun there; name a new one")
    out.mkdir(parents=True, exist_ok=True)
    needed = sum(one.n_bytes for one in shards if not _is_done(one, out))
    free = shutil.disk_usage(out).free
    if free < needed:
        raise ModelError(f"{out} has {free:,} bytes free, and {needed:,} are to be written")
    put(out / RECORD, record)


def write(
    shards: Sequence[Shard], folder: Path, out: Path, progress: Callable[[int], None]
) -> None:
    """Write what is not written yet, then the index.

    Args:
        shards: Files to write.
        folder: Where their tensors come from.
        out: Where they go.
        progress: Called with the number of tensors just done.
    """
    for shard in shards:
        if _is_done(shard, out):
            progress(len(shard.tensors))
        else:
            _write_one(shard, folder, out / shard.name, progress)
    places = {one.name: shard.name for shard in shards for one in shard.tensors}
    total = sum(one.n_bytes for shard in shards for one in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    put(out / "model.safetensors.index.json", index)


def _is_done(shard: Shard, out: Path) -> bool:
    file = out / shard.name
    return file.is_file() and file.stat().st_size == shard.n_bytes


def _write_one(shard: Shard, folder: Path, file: Path, progress: Callable[[int], None]) -> None:
    part = file.with_name(f".{file.name}{_PART}")
    with part.open("wb") as out:
        out.write(shard.header)
        for one in shard.tensors:
            # Opened anew each time, lest all that was read stays mapped.
            with open_weights(folder / one.file) as read:
                data = read(one.source).to(one.dtype).contiguous()
                out.write(data.view(-1).view(torch.uint8).numpy().data)
                out.write(bytes(one.n_bytes - data.nbytes))
                del data
            progress(1)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)


def put(file: Path, held: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    part = file.with_name(f".{file.name}{_PART}")
    part.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", "utf-8")
    part.replace(file)
