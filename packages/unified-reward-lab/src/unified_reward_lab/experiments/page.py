"""Sections of results in Markdown: figures, tables, plots, and markers around a section."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.io.atomic import write_bytes


def with_interval(metric: Mapping[str, Any]) -> str:
    """Format a metric with its interval.

    >>> with_interval({"value": 0.5, "ci95": [0.4, 0.6], "n": 9})
    '0.500 (0.400 to 0.600)'
    """
    if metric["value"] is None:
        return "-"
    low, high = metric["ci95"]
    return f"{metric['value']:.3f} ({low:.3f} to {high:.3f})"


def png(figure: Any, *, dpi: int = 150) -> bytes:
    """Return a matplotlib figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def split_at_section(document: Path, name: str) -> tuple[str, str]:
    """Read the text before and after a section, with its markers.

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


def replace_section(document: Path, name: str, section: str) -> None:
    """Replace a section of a document, which is never left half written.

    Args:
        document: As in `split_at_section`.
        name: The section's name.
        section: New text between the markers.

    Raises:
        DataError: As in `split_at_section`; the document is untouched.
    """
    before, after = split_at_section(document, name)
    write_bytes(document, f"{before}\n{section.strip()}\n{after}".encode())
