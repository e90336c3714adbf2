"""Fingerprints of what a row was made from: its input, the media in it, and files of a model.

They are equal as long as contents are, wherever the files lie and whenever they were copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Example, Image, Video
from unified_reward.core.verdicts import Failed
from unified_reward.io.text import parse_json


_BLOCK = 2**16
_TENSOR = 2**12
"""Bytes read at the begin of each tensor of a large file: a head alone may have been trained."""
_LONGEST_HEADER = 10**8
"""Bytes of the header of a safetensors file, as its own reader has it."""
_MEDIUM = (2**20, 16)
"""Largest medium that is read whole, and the number of blocks read of a larger one."""
_SKIPPED = (".md", ".html", ".jsonl", ".jsonl.config.json")
"""Ends of names that no model is loaded from; runs may write theirs beside the model."""


def example_fingerprint(
    content: Example | Failed, reads: Collection[str], prompt: Example | None = None
) -> str:
    """Fingerprint of a row as far as the work reads it; media count by content.

    Args:
        content: The row.
        reads: Names of the fields of `Example` that count.
        prompt: The prompt of a row that failed when it was made.
    """
    if isinstance(content, Failed):
        # The same wherever the line stands.
        error = re.sub(r"^line \d+: ", "", content.reason)
        values = [error, _plain(prompt, reads) if prompt else None]
    else:
        values = _plain(content, reads)
    return _digest(json.dumps(values, sort_keys=True, allow_nan=False).encode())


def file_fingerprint(path: str | Path, *, whole: int = 2**26, blocks: int = 64) -> str:
    """Fingerprint of the content of a file; a missing one and a folder have one too.

    Of a large safetensors file the begin of every tensor counts too.

    Args:
        path: The file.
        whole: Bytes up to which it is read whole; of a larger file size and ``blocks`` count.
        blocks: Blocks of 64 KiB, evenly spread from the first to the last byte.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  called for every medium, and pathlib is slow
    except (OSError, ValueError):
        return "missing"
    if not stat.S_ISREG(status.st_mode):
        return "no file"
    changed = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return _content(str(path), changed, whole, blocks)


def folder_fingerprints(folder: Path) -> dict[str, str]:
    """Fingerprints of the files that a model in a folder may be loaded from, by their names there.

    Hidden files, ``checkpoints/`` of a training, and outputs of runs in folders below it do not
    count.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        is_output = root != str(folder) and any(name.endswith(".jsonl") for name in names)
        if is_output or real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] != "." and name != "checkpoints"]
        for name in names:
            if name[0] != "." and not name.endswith(_SKIPPED):
                file = Path(root, name)
                found[file.relative_to(folder).as_posix()] = file_fingerprint(file)
    return dict(sorted(found.items()))


def folder_revision(folder: Path) -> str:
    """Commit of a folder in the cache of the hub; for any other, a fingerprint of its files."""
    if folder.parent.name == "snapshots":
        return folder.name
    return _digest(json.dumps(folder_fingerprints(folder), allow_nan=False).encode())


def text_fingerprint(text: str) -> str:
    """Fingerprint of a text, such as a prompt's wording."""
    return _digest(text.encode(errors="surrogatepass"))


@lru_cache(maxsize=2**12)
def _content(path: str, changed: tuple[int, ...], whole: int, blocks: int) -> str:
    size = changed[1]  # by the others, a file that is written again is another entry of the cache
    try:
        with open(path, "rb") as file:  # noqa: PTH123  as above
            if size <= whole:
                return _digest(file.read())
            digest = hashlib.sha256(f"{size} ".encode())
            places = [(i * (size - _BLOCK) // (blocks - 1), _BLOCK) for i in range(blocks)]
            if path.endswith(".safetensors"):
                places += [(start, _TENSOR) for start in _tensors(file)]
            for start, length in places:
                file.seek(start)
                digest.update(file.read(length))
            return digest.hexdigest()[:16]
    except OSError:
        return "unreadable"


def _tensors(file: IO[bytes]) -> list[int]:
    """Places at which the tensors of a safetensors file begin; none where its header is broken."""
    n_bytes = int.from_bytes(file.read(8), "little")
    try:
        header = parse_json(file.read(min(n_bytes, _LONGEST_HEADER)))
        tensors = (value for name, value in header.items() if name != "__metadata__")
        return sorted(8 + n_bytes + tensor["data_offsets"][0] for tensor in tensors)
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _plain(value: Any, reads: Collection[str] | None = None) -> Any:
    """Value as JSON writes it; of a dataclass the fields ``reads``, or all."""
    if isinstance(value, Image | Video):
        return [type(value).__name__, _medium(value), value.fps if isinstance(value, Video) else 0]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if is_dataclass(value):
        names = reads or [field.name for field in fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    return value


def _medium(medium: Image | Video) -> Any:
    source = medium.source
    if isinstance(source, str | Path):
        return file_fingerprint(source, whole=_MEDIUM[0], blocks=_MEDIUM[1])
    if isinstance(source, bytes):
        return _digest(source)
    if isinstance(source, tuple):
        return _plain(source)
    try:
        return media.content_hash(medium)[:16]
    except MediaError as error:
        return str(error)
