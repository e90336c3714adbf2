"""Files that appear whole: written under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unified_reward.core.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` when the block ends without an error.

    Parent folders are made. A process that is killed leaves ``.NAME.part`` behind, which the next
    writer of the same name replaces.

    Raises:
        DataError: The file cannot be written; ``path`` stays as it was.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; NaN and infinity are refused with ``ValueError``."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())
