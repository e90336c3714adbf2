"""A lock on an output, so that two runs never write to it at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.text import read_text


_SIGNATURE = "process "


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output while the block runs; its folder is made.

    The lock is the system's (flock) on ``.NAME.lock`` beside the output, behind links, and ends
    with the process however that ends. Where a file system has none, filelock writes a marker of
    its own there.

    Raises:
        ConfigError: Another run holds it; names its process and machine where they are known.
        DataError: The folder cannot be written, or it is no place for a run to go on.
    """
    real = Path(os.path.realpath(out))
    path = real.parent / f".{real.name}.lock"
    lock = FileLock(path)
    try:
        if real.exists() and not real.is_file() and not real.is_dir():
            raise DataError(f"{out} is a pipe or a device, and a run goes on in a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = _content(path)
        known = f" ({owner})" if owner.startswith(_SIGNATURE) else ""
        raise ConfigError(
            f"{out} is being written by another run{known}; wait for its end, or give another "
            "output"
        ) from error
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from error
    content = _content(path)
    is_ours = not content or content.startswith(_SIGNATURE)
    try:
        if is_ours:
            with suppress(OSError):
                path.write_text(f"{_SIGNATURE}{os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
    finally:
        if is_ours:
            # Before the release: whoever has opened the file by then sees that its name is gone.
            with suppress(OSError):
                path.unlink()
        lock.release()


def _content(path: Path) -> str:
    try:
        return read_text(path)
    except DataError:
        return ""
