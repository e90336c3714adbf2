"""Oracle: reads images and videos of the microworld back into scenes, or abstains.

Nothing is learned, and nothing of the renderer is used but the palette: things are separated from
the background by colour, their shapes recognised by geometry. It knows no flaws by name; where it
is in doubt it abstains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unified_reward.core.errors import DataError, MediaError

from .captions import Caption, full_caption
from .captions import alignment as caption_alignment
from .palette import BACKGROUND, PALETTE
from .scene import CELLS, COLOURS, EVENTS, MAX_THINGS, Scene, Thing, scene_error


_SIDE_PX = 64
_MIN_BACKGROUND_FRAC = 0.4
_MAX_STRANGE_FRAC = 0.03
_MIN_AREA_PX = 15
_MIN_STRENGTH = 0.2
_MAX_OFF_CENTRE_PX = 7
_UNSURE_SIDE_PX = (15.5, 19.0)
_MAX_SOFTNESS = 0.14


class _Outline(NamedTuple):
    """Features that distinguish shapes, independent of size and place."""

    fill: float
    """Area / area of the bounding box."""
    weight: float
    """(Area below the middle of the box - area above it) / area."""
    fourfold: float
    """Mean of cos(4 angle) over its points about their centre, weighted by squared distance."""


_OUTLINES = {
    "circle": _Outline(0.785, 0.0, 0.0),
    "square": _Outline(1.0, 0.0, -0.28),
    "triangle": _Outline(0.54, 0.45, 0.0),
    "star": _Outline(0.45, 0.07, 0.0),
    "cross": _Outline(0.55, 0.0, 0.49),
}


def _prepared(frame: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Subtract the background and normalise the brightness; None without a plain background."""
    pixels = frame.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    grey = np.median(border, axis=0)
    if np.ptp(grey) > 12 or grey.mean() < 60:
        return None
    if np.median(np.abs(border - grey)) > 3:
        pixels = ndimage.uniform_filter(pixels, 3, axes=(0, 1))
    return (pixels - grey) * np.float32(BACKGROUND / grey.mean())


def _coverage(contrast: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Coverage of each pixel by each colour; None if too many pixels have no known colour.

    A pixel on an edge lies between the background and one colour of the palette, on a straight
    line of RGB space; it is assigned to the colour with the nearest line. Things paler than
    usual count as covering their pixels in full. Shape (6, 64, 64).
    """
    rays = np.array([PALETTE[c] for c in COLOURS], np.float32) - BACKGROUND
    along = np.clip(contrast @ rays.T / (rays**2).sum(1), 0, 1.1)
    lengths = (contrast**2).sum(-1)
    squares = lengths[..., None] - along * (2 * contrast @ rays.T - along * (rays**2).sum(1))
    nearest = squares.argmin(-1)
    is_far = lengths > 60**2
    if is_far.mean() > 1 - _MIN_BACKGROUND_FRAC:
        return None
    if (is_far & (squares.min(-1) > 50**2)).mean() > _MAX_STRANGE_FRAC:
        return None
    owned = along * (nearest[..., None] == np.arange(len(COLOURS)))
    strongest = owned.max(-1)
    strength = float(np.median(strongest[strongest >= strongest.max() / 2]))
    if strength < _MIN_STRENGTH:
        return np.zeros((len(COLOURS), *strongest.shape), np.float32)
    return np.moveaxis(owned / strength, -1, 0)


def _centre(cover: NDArray[np.float32]) -> tuple[float, float]:
    """Row and column of the centre of mass, 0.5 in the middle of the first pixel."""
    along = np.arange(_SIDE_PX) + 0.5
    area = float(cover.sum())
    return float(cover.sum(1) @ along) / area, float(cover.sum(0) @ along) / area


def _shape_of(cover: NDArray[np.float32]) -> str | None:
    """Nearest shape; None if it is not near or another is almost as near."""
    area = float(cover.sum())
    rows, columns = np.indices(cover.shape) + 0.5
    height, width = float(cover.max(1).sum()), float(cover.max(0).sum())
    row, column = _centre(cover)
    y, x = rows - row, columns - column
    moment = cover * (x**2 + y**2)
    middle = float((cover.max(1) * rows[:, 0]).sum()) / height
    outline = _Outline(
        fill=area / (height * width),
        weight=float((cover * np.clip((rows - middle) * 2, -1, 1)).sum()) / area,
        fourfold=float((moment * np.cos(4 * np.arctan2(y, x))).sum() / moment.sum()),
    )
    distances = {
        shape: float(np.linalg.norm(np.subtract(outline, reference)))
        for shape, reference in _OUTLINES.items()
    }
    best, second = sorted(distances, key=distances.__getitem__)[:2]
    is_sure = distances[best] < 0.2 and distances[best] < 0.8 * distances[second]
    return best if is_sure else None


def _cell_of(row: float, column: float) -> str | None:
    half = _SIDE_PX / 2
    i, j = int(row >= half), int(column >= half)
    off = max(abs(row - (i + 0.5) * half), abs(column - (j + 0.5) * half))
    return CELLS[2 * i + j] if off <= _MAX_OFF_CENTRE_PX else None


def _read_thing(cover: NDArray[np.float32], colour: str) -> Thing | None:
    side_px = max(float(cover.max(0).sum()), float(cover.max(1).sum()))
    if _UNSURE_SIDE_PX[0] < side_px < _UNSURE_SIDE_PX[1] or side_px > _SIDE_PX / 2:
        return None
    softness = float((cover * (1 - cover)).sum()) / float(cover.sum()) ** 0.5
    if softness > _MAX_SOFTNESS * side_px:  # edges so wide that small stars look like discs
        return None
    shape, cell = _shape_of(cover), _cell_of(*_centre(cover))
    if shape is None or cell is None:
        return None
    return Thing(colour, shape, "small" if side_px <= _UNSURE_SIDE_PX[0] else "large", cell)


def _read_frame(frame: NDArray[np.uint8]) -> frozenset[Thing] | None:
    """Things in one frame, perhaps none; None if any is in doubt."""
    contrast = _prepared(frame)
    covers = None if contrast is None else _coverage(contrast)
    if covers is None:
        return None
    things: set[Thing] = set()
    for colour, cover in zip(COLOURS, covers, strict=True):
        labels = np.zeros(cover.shape, np.int32)
        ndimage.label(cover > 0.4, np.ones((3, 3)), output=labels)
        for k in range(1, int(labels.max()) + 1):
            is_core = labels == k
            if is_core.sum() < _MIN_AREA_PX:
                continue
            is_near = ndimage.binary_dilation(is_core)
            thing = _read_thing(np.minimum(cover, 1) * is_near, colour)
            if thing is None:
                return None
            things.add(thing)
    return frozenset(things) if len(things) <= MAX_THINGS else None


def _first_read(frames: NDArray[np.uint8]) -> frozenset[Thing] | None:
    return next((things for things in map(_read_frame, frames) if things is not None), None)


def _explained(start: frozenset[Thing], end: frozenset[Thing]) -> tuple[Thing, ...] | None:
    """Find things with at most one event that lead from the first state to the last."""
    if start == end:
        return tuple(start)
    for actor in start | end:
        for event in EVENTS:
            acting = replace(actor, event=event)
            others = (start | end if event == "appears" else start) - {actor}
            things = (*others, acting)
            if scene_error(things):
                continue
            before, after = (
                {state for state in states if state is not None}
                for states in (
                    [thing.at_start() for thing in things],
                    [thing.at_end() for thing in things],
                )
            )
            if before == start and after == end:
                return things
    return None


def read(pixels: NDArray[np.uint8]) -> Scene | None:
    """Read the scene in an image or a video; None if in doubt.

    A video is read at the first readable of its first three frames, and of its last three.

    Args:
        pixels: RGB, 0 to 255. Shape (64, 64, 3), or (8, 64, 64, 3).

    Raises:
        MediaError: The shape or type is another.
    """
    if pixels.shape not in ((64, 64, 3), (8, 64, 64, 3)) or pixels.dtype != np.uint8:
        raise MediaError(
            "the oracle reads uint8 pixels of shape (64, 64, 3) or (8, 64, 64, 3), "
            f"not {pixels.dtype} of {pixels.shape}"
        )
    is_video = pixels.ndim == 4
    frames = pixels if is_video else pixels[None]
    start = _first_read(frames[:3])
    end = _first_read(frames[:-4:-1]) if is_video else start
    if start is None or end is None:
        return None
    things = _explained(start, end)
    if not things:
        return None
    try:
        return Scene(tuple(sorted(things, key=lambda thing: CELLS.index(thing.cell))), is_video)
    except DataError:
        return None


def alignment(target: Caption | Scene, pixels: NDArray[np.uint8]) -> float:
    """Alignment of pixels with a caption or a scene, 0 to 1; 0 where the oracle abstains.

    Args:
        target: A caption, of which every fact counts, or a scene, of which every attribute does.
        pixels: As for `read`.
    """
    scene = read(pixels)
    if scene is None:
        return 0.0
    caption = full_caption(target) if isinstance(target, Scene) else target
    return caption_alignment(caption, scene)
