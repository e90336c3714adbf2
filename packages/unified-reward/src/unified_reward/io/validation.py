"""Messages for people from pydantic's errors."""

from __future__ import annotations

from pydantic import ValidationError


def describe_errors(error: ValidationError, whole: str, limit: int | None = None) -> str:
    """The fields that are wrong and why, in one line.

    Args:
        error: What pydantic raised.
        whole: The name of the value itself, for errors without a field, such as ``row``.
        limit: Number of errors named; None for all.
    """
    lines = [
        f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    ]
    return "; ".join(lines[:limit])
