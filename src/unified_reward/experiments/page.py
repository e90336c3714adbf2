"""Sections of results inside Markdown documents, between two markers that name them.

Knows nothing of what the sections say.
"""

from __future__ import annotations

from pathlib import Path

from unified_reward.types import DataError


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
