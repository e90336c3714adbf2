"""Files that appear whole: written under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unified_reward.core.errors import ConfigError, DataError


def keep_inputs(out: Path, *inputs: Path) -> None:
    """Refuse an output that is one of the inputs, by this or another name.

    Raises:
        ConfigError: It is.
    """
    for path in inputs:
        with suppress(OSError, ValueError):
            if out.samefile(path):
                raise ConfigError(f"{out} is the input; give another output file")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn errors of the system, such as of a full disk, into one that names what was written.

    Raises:
        DataError: The block failed to write.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` when the block ends without an error.

    Parent folders are made. After an error the temporary file is gone. A process that is killed
    leaves ``.NAME.part`` behind, which the next writer of the same name replaces. A device or pipe,
    such as ``/dev/stdout``, is written to as it is.

    Raises:
        DataError: The file cannot be written; ``path`` stays as it was.
    """
    with written(path):
        is_device = path.exists() and not path.is_file() and not path.is_dir()
    if is_device:
        with written(path), path.open("wb") as file:
            yield file
        return
    with _renamed(path) as part, part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the name ``path`` when the block ends without an error.

    Raises:
        DataError: The folder cannot be written, or ``path`` is there already and not empty.
    """
    with _renamed(path) as part:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        yield part


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    part = path.parent / f".{path.name}.part"
    try:
        with written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; NaN and infinity are refused with ``ValueError``.

    Characters that UTF-8 cannot encode, of a file's name, become question marks.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode(errors="replace"))
