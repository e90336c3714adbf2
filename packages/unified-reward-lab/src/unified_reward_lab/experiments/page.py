"""Sections of results in Markdown: figures, tables, and their place between two markers.

Knows nothing of what the sections say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError


def told(figure: Mapping[str, Any]) -> str:
    """A figure with its interval.

    >>> told({"value": 0.5, "ci95": [0.4, 0.6], "n": 9})
    '0.500 (0.400 to 0.600)'
    """
    if figure["value"] is None:
        return "-"
    low, high = figure["ci95"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def around(document: Path, name: str) -> tuple[str, str]:
    """What stands before and behind a section, its markers included.

    Args:
        document: A Markdown file with ``<!-- begin NAME -->`` above ``<!-- end NAME -->``.
        name: The section's name.

    Raises:
        DataError: The file cannot be read, or a marker is missing, doubled or misplaced.
    """
    try:
        text = document.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{document} cannot be read: {error}") from error
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    for marker in (begin, end):
        if text.count(marker) != 1:
            raise DataError(f"{document} has {marker} {text.count(marker)} times, not once")
    if text.index(end) < text.index(begin):
        raise DataError(f"{document} has {end} above {begin}")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def splice(document: Path, name: str, section: str) -> None:
    """Replace a section; a reader finds the old document or the whole new one, never a half.

    Args:
        document: As in `around`.
        name: The section's name.
        section: What is to stand between the markers.

    Raises:
        DataError: As in `around`; the document is untouched.
    """
    before, behind = around(document, name)
    part = document.with_name(f"{document.name}.part")
    part.write_bytes(f"{before}\n{section.strip()}\n{behind}".encode())
    part.replace(document)
