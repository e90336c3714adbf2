"""A file of rows as the input of a run, that is gone on with where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from unified_reward.core.samples import Image, Video
from unified_reward.core.verdicts import Failed
from unified_reward.io.checkpoints import Checkpoint, hashed
from unified_reward.io.rows import Row, read_examples
from unified_reward.io.text import LinePlace, open_rows


def media_of(row: Row) -> tuple[Image | Video, ...]:
    """Media that the fingerprint of a row may look at."""
    content = row.prompt if isinstance(row.content, Failed) else row.content
    return content.media if content else ()


class RowFile:
    """Rows of a file, as `read_examples` reads them: strict, so that no misspelt key is lost."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is not opened."""
        self.path = path

    def __call__(self) -> Iterator[Row]:
        """Iterate over all rows.

        Raises:
            DataError: The file cannot be read.
        """
        return read_examples(self.path)

    def at(self, checkpoint: Checkpoint) -> LinePlace | None:
        """Place of a checkpoint in the file; None where the bytes before it are others.

        Raises:
            DataError: The file cannot be read.
        """
        with open_rows(self.path) as file:
            digest = hashed(file, checkpoint.input_bytes)
            if digest is None or digest.hexdigest() != checkpoint.input_sha256:
                return None
            if file.read(1):
                file.seek(-2, 1)
                if file.read(1) != b"\n":
                    return None
        return LinePlace(checkpoint.input_lines, checkpoint.input_bytes, digest)

    def after(self, place: LinePlace, earlier: Container[str]) -> Iterator[Row]:
        """Iterate over the rows behind a place, which moves with them.

        Args:
            place: The place.
            earlier: Ids of the rows before it, and no others.

        Raises:
            DataError: The file cannot be read.
        """
        return read_examples(self.path, place=place, earlier=earlier)
