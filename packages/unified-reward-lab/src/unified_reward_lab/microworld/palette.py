"""The colours of the microworld: all that its renderer and its oracle have in common."""

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
"""Mean grey level behind the objects; an image departs from it by up to 8."""
