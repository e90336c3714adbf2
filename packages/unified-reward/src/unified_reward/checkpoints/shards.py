"""Copying tensors into new safetensors shards under new names, one at a time, resumable.

Knows bytes, not the use of the tensors.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unified_reward.checkpoints.tensor_keys import read_json
from unified_reward.core.errors import ModelError, one_line
from unified_reward.io.atomic import replacing, write_json


SHARD_BYTES = 2 * 10**9
"""Largest size of the data in a shard that has more than one tensor."""
RECORD = "conversion.json"
"""File that identifies the conversion a folder belongs to."""
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""Names of dtypes in a safetensors header."""
_PART = ".part"


class TensorSpec(NamedTuple):
    """A tensor to write, and its source."""

    name: str
    source: str
    """Name of the source tensor."""
    file: str
    """File of the source tensor, relative to the source folder."""
    shape: tuple[int, ...]
    """Shape of the source, or with more rows, which become zero."""
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


class Shard(NamedTuple):
    """A file to write."""

    name: str
    tensors: tuple[TensorSpec, ...]

    @property
    def header(self) -> bytes:
        """Header of the safetensors file: everything before the data."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self.tensors:
            start, end = end, end + tensor.n_bytes
            place = {"shape": tensor.shape, "data_offsets": (start, end)}
            header[tensor.name] = {"dtype": CODES[tensor.dtype], **place}
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def n_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(one.n_bytes for one in self.tensors)


def split_into_shards(tensors: Sequence[TensorSpec]) -> tuple[Shard, ...]:
    """Distribute tensors over shards of at most ``SHARD_BYTES``, in their order."""
    groups: list[list[TensorSpec]] = []
    n_bytes = 0
    for tensor in tensors:
        if not groups or n_bytes + tensor.n_bytes > SHARD_BYTES:
            groups.append([])
            n_bytes = 0
        groups[-1].append(tensor)
        n_bytes += tensor.n_bytes
    # Wider types first, as safetensors has them, so that all stay aligned.
    ordered = [sorted(group, key=lambda tensor: -tensor.dtype.itemsize) for group in groups]
    return tuple(
        Shard(f"model-{i:05}-of-{len(groups):05}.safetensors", tuple(group))
        for i, group in enumerate(ordered, 1)
    )


@contextmanager
def open_weights(file: Path) -> Iterator[Callable[[str], Tensor]]:
    """Open a file of weights; yields a function that reads a tensor by its name.

    Raises:
        ModelError: The file cannot be read tensor by tensor.
    """
    with ExitStack() as stack:
        try:
            if file.suffix == ".safetensors":
                read = stack.enter_context(safe_open(file, "pt")).get_tensor
            else:
                state = torch.load(file, "cpu", weights_only=True, mmap=True)
                read = state.__getitem__
                if not all(isinstance(value, Tensor) for value in state.values()):
                    raise RuntimeError("it holds more than tensors by their names")
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(
                f"{file} cannot be read tensor by tensor: {one_line(error)}"
            ) from error
        yield read


def prepare_folder(out: Path, shards: Sequence[Shard], record: Mapping[str, Any]) -> None:
    """Create the folder of a conversion, or check that it belongs to the same one.

    Args:
        out: A new or empty folder, or one that was started with the same ``plan``.
        shards: Files that will be written.
        record: Content of ``conversion.json``: ``plan`` identifies the conversion, ``source`` is
            for people.

    Raises:
        ModelError: The folder holds anything else, or the disk has no room.
        DataError: The folder cannot be written.
    """
    if (out / RECORD).is_file():
        other = read_json(out / RECORD)
        if other.get("plan") != record["plan"]:
            raise ModelError(
                f"{out} holds another conversion, of {other.get('source')}, or of the same before "
                "it changed; name another folder, or delete this one"
            )
    elif out.exists() and not out.is_dir():
        raise ModelError(f"{out} is a file, not a folder")
    elif out.is_dir() and any(not file.name.endswith(_PART) for file in out.iterdir()):
        raise ModelError(f"{out} is not empty, and no conversion was started there; name a new one")
    out.mkdir(parents=True, exist_ok=True)
    needed = sum(shard.n_bytes for shard in shards if not _is_done(shard, out))
    free = shutil.disk_usage(out).free
    if free < needed:
        raise ModelError(f"{out} has {free:,} bytes free, and {needed:,} are to be written")
    write_json(out / RECORD, record)


def write(
    shards: Sequence[Shard], folder: Path, out: Path, progress: Callable[[int], None]
) -> None:
    """Write the shards that are not complete yet, then the index.

    Args:
        shards: Files to write.
        folder: Folder of the source tensors.
        out: Folder of the shards.
        progress: Called with the number of tensors just done.
    """
    for shard in shards:
        if _is_done(shard, out):
            progress(len(shard.tensors))
        else:
            _write_shard(shard, folder, out / shard.name, progress)
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.n_bytes for shard in shards for tensor in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(out / "model.safetensors.index.json", index)


def _is_done(shard: Shard, out: Path) -> bool:
    file = out / shard.name
    return file.is_file() and file.stat().st_size == shard.n_bytes


def _write_shard(shard: Shard, folder: Path, path: Path, progress: Callable[[int], None]) -> None:
    with replacing(path) as out:
        out.write(shard.header)
        for tensor in shard.tensors:
            # Opened anew each time, lest all that was read stays mapped.
            with open_weights(folder / tensor.file) as read:
                data = read(tensor.source).to(tensor.dtype).contiguous()
                out.write(data.view(-1).view(torch.uint8).numpy().data)
                out.write(bytes(tensor.n_bytes - data.nbytes))
                del data
            progress(1)
