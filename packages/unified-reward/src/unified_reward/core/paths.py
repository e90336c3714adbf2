"""Checks of paths that are False, not an error, where the system takes no such name.

`Path.is_file` and its relatives raise ``OSError`` for a name that is too long.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """True for a regular file that is there, also behind links."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """True for a folder that is there, also behind links."""
    return os.path.isdir(path)  # noqa: PTH112
