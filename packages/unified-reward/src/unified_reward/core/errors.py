"""The error tree."""

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
