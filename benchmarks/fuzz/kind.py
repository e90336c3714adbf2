"""Kinds of input, and the three faults that a check can find."""

from __future__ import annotations

from random import Random
from typing import Protocol


class WrongReadError(Exception):
    """The library read something, and the reference reads something else."""


class RowsLostError(Exception):
    """A row of a file became neither content nor a failure, or came from nowhere."""


class Kind(Protocol):
    """One kind of input, made with an empty folder for its files."""

    def check(self, rng: Random) -> bool:
        """Make one input, read it, and hold it against the reference.

        Returns:
            True if it was read, False if it was refused with an error of the library.

        Raises:
            WrongReadError: Read, but not as the reference reads it.
            RowsLostError: Rows are missing or were invented.
            Exception: Any other is a traceback that a user would have seen.
        """
        ...
