"""Counts in messages for people."""

from __future__ import annotations


def count_of(n: int, singular: str, many: str = "") -> str:
    """Count with its noun, and a verb where the words hold it.

    Args:
        n: The count.
        singular: Words behind 1.
        many: Words behind any other count; default ``singular`` with an ``s``.

    >>> count_of(1, "file"), count_of(1200, "file"), count_of(2, "file stands", "files stand")
    ('1 file', '1,200 files', '2 files stand')
    """
    return f"{n:,} {singular if n == 1 else many or f'{singular}s'}"
