"""Renderer: images of 64 x 64 RGB pixels, videos of 8 such frames at 4 frames per second.

Knows nothing of captions or of the oracle that reads its images back.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .palette import BACKGROUND, PALETTE
from .scene import MOVES, STILL, TURNS, Scene, Thing, row_column


SIDE_PX = 64
FPS = 4.0

Pixels = NDArray[np.uint8]

_SUPERSAMPLING = 8
_PROGRESS = (0.0, 0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0)
_PX = {"small": (12, 13, 14), "large": (23, 24, 25)}


def _polygon(corners: NDArray[np.float64], x: NDArray, y: NDArray) -> NDArray[np.bool_]:
    """Points inside a closed polygon, by the parity of the edges right of each point."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (x1, y1), (x2, y2) in pairwise([*corners, corners[0]]):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < x1 + (x2 - x1) * (y - y1) / (y2 - y1))
    return inside


@lru_cache(maxsize=256)
def mask(shape: str, side_px: int) -> NDArray[np.float32]:
    """Coverage of each pixel by the shape, 0 to 1. Shape (side_px, side_px, 1)."""
    n = side_px * _SUPERSAMPLING
    axis = (np.arange(n) + 0.5) * 2 / n - 1
    x, y = axis[None, :], axis[:, None]
    if shape == "circle":
        covered = x**2 + y**2 <= 1
    elif shape == "square":
        covered = np.maximum(abs(x), abs(y)) <= 0.9
    elif shape == "cross":
        covered = np.minimum(abs(x), abs(y)) <= 0.33
    elif shape == "triangle":
        covered = _polygon(np.array([(0, -1), (1, 0.85), (-1, 0.85)]), x, y)
    else:
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, 0.45, 1.05)
        covered = _polygon(np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1), x, y)
    blocks = covered.reshape(side_px, _SUPERSAMPLING, side_px, _SUPERSAMPLING)
    return blocks.mean((1, 3), dtype=np.float32)[:, :, None]


def _paste(
    frame: NDArray[np.float32], thing: Thing, jitter: tuple[int, int, int], progress: float
) -> None:
    """Draw a thing in place, ``progress`` of the way through its event."""
    event = thing.event
    down, right = MOVES.get(event, (0, 0))
    row, column = row_column(thing.cell)
    px = _PX[thing.size][jitter[2]]
    if event in ("grows", "shrinks"):
        other = _PX["large" if event == "grows" else "small"][jitter[2]]
        px = round(px + (other - px) * progress)
    top = 16 + jitter[0] + round(32 * (row + down * progress)) - px // 2
    left = 16 + jitter[1] + round(32 * (column + right * progress)) - px // 2
    colour = np.array(PALETTE[thing.colour], np.float32)
    if event in TURNS:
        colour += (np.array(PALETTE[TURNS[event]], np.float32) - colour) * np.float32(progress)
    cover = mask(thing.shape, px)
    if event in ("appears", "disappears"):
        cover = cover * np.float32(progress if event == "appears" else 1 - progress)
    region = frame[top : top + px, left : left + px]
    region += (colour - region) * cover


def render(scene: Scene, *, seed: int) -> Pixels:
    """Render a scene.

    A video shows the state before the event in frames 0 to 2, the state after it in frames 5 to 7.

    Args:
        scene: The scene.
        seed: Seed of the rest: background grey 225 +- 8, each thing's place
            within 3 px of its cell's centre, its side (12 to 14 px small, 23 to 25 px large).

    Returns:
        RGB, 0 to 255. Shape (64, 64, 3) for an image, (8, 64, 64, 3) for a video.
    """
    rng = np.random.default_rng(seed)
    grey = BACKGROUND + int(rng.integers(-8, 9))
    jitters = rng.integers((-3, -3, 0), (4, 4, 3), size=(len(scene.things), 3)).tolist()
    still = np.full((SIDE_PX, SIDE_PX, 3), grey, np.float32)
    acting: list[tuple[Thing, tuple[int, int, int]]] = []
    for thing, jitter in zip(scene.things, jitters, strict=True):
        if thing.event == STILL:
            _paste(still, thing, jitter, 0.0)
        else:
            acting.append((thing, jitter))
    frames: dict[float, Pixels] = {}
    for progress in dict.fromkeys(_PROGRESS if acting else (0.0,)):
        frame = still.copy()
        for thing, jitter in acting:
            _paste(frame, thing, jitter, progress)
        frames[progress] = (frame + 0.5).astype(np.uint8)
    if not scene.is_video:
        return frames[0.0]
    return np.stack([frames.get(progress, frames[0.0]) for progress in _PROGRESS])
