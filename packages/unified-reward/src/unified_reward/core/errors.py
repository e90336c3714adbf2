"""The error tree, and how messages quote what others wrote."""

from __future__ import annotations


class UnifiedRewardError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(UnifiedRewardError):
    """A recipe, an option or a reference to a judge is wrong."""


class MediaError(UnifiedRewardError):
    """An image or a video cannot be read."""


class DataError(UnifiedRewardError):
    """A row, or a file of rows, is wrong."""


class ModelError(UnifiedRewardError):
    """A checkpoint cannot be loaded, or cannot answer."""


class ServerError(ModelError):
    """A server refused, timed out or sent an invalid response."""


class UnparsedError(UnifiedRewardError):
    """The judge answered, and the answer cannot be read."""


def one_line(text: object, longest: int = 400) -> str:
    r"""Text of others for a message: in one line, cut off, nothing a terminal would act on.

    An error without a message is given by its class.

    >>> one_line("no such\n  file\x1b", 13)
    'no such file?'
    """
    line = (
        " ".join(str(text).split()) or (isinstance(text, Exception) and type(text).__name__) or ""
    )
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= longest else f"{line[:longest]}…"
