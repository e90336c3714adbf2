"""Silence of warnings while libraries are imported or loaded, in any number of threads.

`warnings.catch_warnings` restores the filters that it found; of two threads whose blocks overlap,
the second to leave puts back those of the first, which ignore everything from then on. Here the
filter stays, and matches only while a block is open.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager


class _OpenBlocks:
    """Pattern of a filter: matches every warning while a block is open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n = 0

    def match(self, text: str) -> bool:
        """Match the text of a warning, see `re.Pattern.match`."""
        del text
        return self.n > 0


_open = _OpenBlocks()
_FILTER = ("ignore", _open, Warning, None, 0)


@contextmanager
def quiet_warnings(*, always: bool = False) -> Generator[None]:
    """Ignore the warnings of all threads until the block ends.

    Args:
        always: Also where the user wants to see them, by Python's ``-W`` or ``PYTHONWARNINGS``.
    """
    if sys.warnoptions and not always:
        yield
        return
    filters: list[object] = warnings.filters  # pyright: ignore[reportAssignmentType]
    with _open.lock:
        _open.n += 1
        # Libraries put theirs before it, and catch_warnings may have taken it away.
        if not filters or filters[0] is not _FILTER:
            filters[:] = [_FILTER, *(each for each in filters if each is not _FILTER)]
    try:
        yield
    finally:
        with _open.lock:
            _open.n -= 1
