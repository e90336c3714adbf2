"""Messages for people from pydantic's errors."""

from __future__ import annotations

from pydantic import ValidationError


_COUNTED_ALONE = 1000
"""Errors that are only counted: to describe each takes time."""


def describe_errors(error: ValidationError, whole: str, limit: int | None = None) -> str:
    """The fields that are wrong and why, in one line.

    Args:
        error: What pydantic raised.
        whole: The name of the value itself, for errors without a field, such as ``row``.
        limit: Number of errors named; None for all.
    """
    n = error.error_count()
    if limit and n > _COUNTED_ALONE:
        return f"{whole}: {n} fields are wrong"
    lines = [
        f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False)
    ]
    return "; ".join(lines[:limit])
