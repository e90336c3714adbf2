"""The error tree."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    pass


class UnifiedRewardError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(UnifiedRewardError):
    """A recipe, an option or a reference to a judge is wrong."""


class MediaError(UnifiedRewardError):
    """A picture or a clip cannot be read."""


class DataError(UnifiedRewardError):
    """A row, or a file of rows, is wrong."""


class ModelError(UnifiedRewardError):
    """A checkpoint cannot be loaded, or cannot answer."""


class ServerError(ModelError):
    """A server refused, timed out or answered nonsense."""


class UnparsedError(UnifiedRewardError):
    """The judge answered, and the answer cannot be read."""
