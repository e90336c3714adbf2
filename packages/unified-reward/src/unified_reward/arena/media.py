"""Media of an arena as browsers read them, under names that reveal nothing.

A rater gets pixels, never the file, whose metadata often names the generator: images as PNG, videos
as `media.browser_video` gives them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from unified_reward import media
from unified_reward.arena.items import ArenaItem
from unified_reward.core.samples import Image, Video


MAX_PIXELS = 2048 * 2048
"""Pixels to which a larger image is shrunk."""


class MediaFile(NamedTuple):
    """A medium that is ready to be sent."""

    path: Path
    media_type: str


class MediaStore:
    """Media of the items by their names; nothing else can be read through it."""

    def __init__(self, items: Iterable[ArenaItem], key: str, folder: Path) -> None:
        """Name all media.

        Args:
            items: Items whose media may be read.
            key: Secret key of the names.
            folder: Folder for converted files.
        """
        self._key = key.encode()
        self._folder = folder
        self._media = {self.name(one): one for item in items for one in item.example.media}
        self._files: dict[str, MediaFile] = {}
        self._locks = {name: threading.Lock() for name in self._media}

    def name(self, medium: Image | Video) -> str:
        """Name of a medium, which nobody without the key can guess."""
        text = f"media {type(medium).__name__} {medium.source!r}"
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).hexdigest()[:32]

    def file(self, name: str) -> MediaFile | None:
        """Convert a medium, once; None if nothing has this name.

        Raises:
            MediaError: The medium is broken.
        """
        medium = self._media.get(name)
        if medium is None:
            return None
        with self._locks[name]:
            if name not in self._files:
                content, media_type = _content(medium)
                path = self._folder / name
                path.write_bytes(content)
                os.utime(path, (0, 0))  # sent as Last-Modified, the order of conversion names sides
                self._files[name] = MediaFile(path, media_type)
        return self._files[name]


def _content(medium: Image | Video) -> tuple[bytes, str]:
    if isinstance(medium, Video):
        return media.browser_video(medium)
    image = media.fit_pixels(media.open_image(medium), MAX_PIXELS)
    return media.encode_png(image), "image/png"
