"""Colours of the microworld: the only thing that its renderer and its oracle share."""

from __future__ import annotations


PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "green": (34, 160, 60),
    "blue": (40, 80, 225),
    "yellow": (245, 205, 25),
    "purple": (155, 45, 190),
    "black": (25, 25, 25),
}
"""RGB of each colour word, 0 to 255."""

BACKGROUND = 225
"""Mean grey level of the background; it varies by up to 8."""
