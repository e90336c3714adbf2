"""Corruptions that make candidates worse: changes of the scene, and visual flaws.

Knows nothing of captions or utilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unified_reward.core.errors import ConfigError

from .palette import BACKGROUND
from .scene import (
    CELLS,
    MOVES,
    SIZES,
    STILL,
    TURNS,
    Scene,
    Thing,
    pick,
    possible_events,
    random_thing,
    scene_error,
)


Pixels = NDArray[np.uint8]
IMAGE_FLAWS = ("blur", "noise", "washed out", "torn")
VIDEO_FLAWS = (*IMAGE_FLAWS, "flicker", "jitter")
MUTATIONS = ("colour", "shape", "size", "place", "count", "swap", "event")
_BACKWARDS = {
    **dict(zip(MOVES, ("moves right", "moves left", "moves down", "moves up"), strict=True)),
    "grows": "shrinks",
    "shrinks": "grows",
    "appears": "disappears",
    "disappears": "appears",
}


def freeze(scene: Scene) -> Scene:
    """Remove all events: every thing stays as it is in the first frame."""
    return replace(scene, things=tuple(replace(t, event=STILL) for t in scene.things))


def _backwards(thing: Thing) -> Thing:
    end = thing.at_end()
    if end is None:
        return replace(thing, event="appears")
    if thing.event in TURNS:
        return replace(end, event=f"turns {thing.colour}")
    return replace(end, event=_BACKWARDS.get(thing.event, STILL))


def reverse(scene: Scene) -> Scene:
    """Play the video backwards: each event is reversed.

    >>> video = Scene((Thing("red", "star", "small", "top left", "moves right"),), is_video=True)
    >>> reverse(video).things[0].cell, reverse(video).things[0].event
    ('top right', 'moves left')
    """
    return replace(scene, things=tuple(_backwards(thing) for thing in scene.things))


def _with(scene: Scene, i: int, thing: Thing) -> tuple[Thing, ...]:
    return (*scene.things[:i], thing, *scene.things[i + 1 :])


def _change_field(
    scene: Scene, rng: np.random.Generator, field: str, values: tuple[str, ...]
) -> Scene | None:
    i = int(rng.integers(len(scene.things)))
    old = scene.things[i]
    for j in rng.permutation(len(values)):
        things = _with(scene, i, replace(old, **{field: values[j]}))
        if values[j] != getattr(old, field) and not scene_error(things):
            return replace(scene, things=things)
    return None


def _change_count(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Remove one thing, or add one if there is only one."""
    if len(scene.things) > 1:
        i = int(rng.integers(len(scene.things)))
        return replace(scene, things=scene.things[:i] + scene.things[i + 1 :])
    things = (*scene.things, random_thing(rng, pick(rng, CELLS), scene.world))
    return None if scene_error(things) else replace(scene, things=things)


def _swap(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Exchange the places, or the colours, of two things."""
    if len(scene.things) < 2:
        return None
    i, j = (int(k) for k in rng.permutation(len(scene.things))[:2])
    field = pick(rng, ("cell", "colour"))
    a, b = scene.things[i], scene.things[j]
    if getattr(a, field) == getattr(b, field):
        return None
    things = _with(scene, i, replace(a, **{field: getattr(b, field)}))
    things = (*things[:j], replace(b, **{field: getattr(a, field)}), *things[j + 1 :])
    if scene_error(things) or set(things) == set(scene.things):
        return None
    return replace(scene, things=things)


def _change_event(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Freeze the video, reverse it or change its event, each equally often."""
    change = pick(rng, ("freeze", "reverse", "other")) if scene.actor else "other"
    if change != "other":
        return freeze(scene) if change == "freeze" else reverse(scene)
    actor = scene.actor or pick(rng, scene.things)
    others = [thing for thing in scene.things if thing is not actor]
    groups = [
        tuple(event for event in group if event != actor.event)
        for group in possible_events(replace(actor, event=STILL), others, scene.world)
    ]
    event = pick(rng, pick(rng, [group for group in groups if group]))
    return replace(
        scene, things=_with(scene, scene.things.index(actor), replace(actor, event=event))
    )


_Change = Callable[[Scene, np.random.Generator], Scene | None]
_CHANGES: dict[str, _Change] = {
    "colour": lambda scene, rng: _change_field(scene, rng, "colour", scene.world.colours),
    "shape": lambda scene, rng: _change_field(scene, rng, "shape", scene.world.shapes),
    "size": lambda scene, rng: _change_field(scene, rng, "size", SIZES),
    "place": lambda scene, rng: _change_field(scene, rng, "cell", CELLS),
    "count": _change_count,
    "swap": _swap,
    "event": _change_event,
}


def mutate(
    scene: Scene, k: int, rng: np.random.Generator, *, kinds: Sequence[str] = MUTATIONS
) -> Scene:
    """Make ``k`` changes of different kinds to the scene, every possible kind equally likely.

    Args:
        scene: The scene to change.
        k: Number of changes: of colour, shape, size or place of a thing, of the number of things,
            two things swapping places or colours, and in videos of the event (frozen, reversed or
            another). Fewer if no further kind is possible.
        rng: Random generator.
        kinds: Kinds of change to choose from; ``event`` is for videos only.
    """
    n_done = 0
    for i in rng.permutation(len(kinds)):
        if n_done == k:
            break
        kind = kinds[int(i)]
        changed = _CHANGES[kind](scene, rng) if scene.is_video or kind != "event" else None
        if changed is not None:
            scene, n_done = changed, n_done + 1
    return scene


@lru_cache(maxsize=64)
def _blurring(sigma_px: float, side_px: int) -> NDArray[np.float32]:
    """Gaussian blur of a line of pixels, as a matrix whose rows sum to one."""
    distance = np.subtract.outer(np.arange(side_px), np.arange(side_px))
    weights = np.exp(-(distance**2) / (2 * sigma_px**2))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blur(frames: NDArray[np.float32], severity: float, _rng: np.random.Generator) -> NDArray:
    lines = _blurring(round(0.8 + 2.0 * severity, 1), frames.shape[1])
    n, side = frames.shape[:2]
    rows = lines @ frames.reshape(n, side, side * 3)
    return lines @ rows.reshape(n, side, side, 3)


def _noise(frames: NDArray[np.float32], severity: float, rng: np.random.Generator) -> NDArray:
    sigma = np.float32(8 + 40 * severity)
    return frames + sigma * rng.standard_normal(frames.shape, np.float32)


def _wash_out(frames: NDArray[np.float32], severity: float, _rng: np.random.Generator) -> NDArray:
    return frames + (BACKGROUND - frames) * np.float32(0.15 + 0.6 * severity)


def _tear(frames: NDArray[np.float32], severity: float, rng: np.random.Generator) -> NDArray:
    """Shift bands of rows sideways, left and right by turns."""
    torn = frames.copy()
    shift_px = round(1 + 4 * severity)
    for k, top in enumerate(range(int(rng.integers(0, 8)), frames.shape[1], 8)):
        band = slice(top, top + 8)
        torn[:, band] = np.roll(frames[:, band], shift_px if k % 2 else -shift_px, axis=2)
    return torn


def _flicker(frames: NDArray[np.float32], severity: float, rng: np.random.Generator) -> NDArray:
    """Darken every other frame."""
    factor = np.ones(len(frames), np.float32)
    factor[int(rng.integers(2)) :: 2] = 1 - (0.1 + 0.5 * severity)
    return frames * factor[:, None, None, None]


def _shake(frames: NDArray[np.float32], severity: float, rng: np.random.Generator) -> NDArray:
    """Shift each frame independently."""
    reach_px = round(1 + 3 * severity)
    shifts = rng.choice((-reach_px, reach_px), size=(len(frames), 2))
    moved = [np.roll(f, tuple(s), (0, 1)) for f, s in zip(frames, shifts.tolist(), strict=True)]
    return np.stack(moved)


_FLAWS: dict[str, Callable[[NDArray[np.float32], float, np.random.Generator], NDArray]] = {
    "blur": _blur,
    "noise": _noise,
    "washed out": _wash_out,
    "torn": _tear,
    "flicker": _flicker,
    "jitter": _shake,
}


def degrade(pixels: Pixels, flaw: str, severity: float, rng: np.random.Generator) -> Pixels:
    """Add one flaw, visible from severity 0.3 on; the things stay recognisable even at 1.

    Args:
        pixels: RGB, 0 to 255. Shape (H, W, 3), or (T, H, W, 3) for a video, H = W.
        flaw: One of ``IMAGE_FLAWS``, for videos of ``VIDEO_FLAWS``.
        severity: Strength of the flaw, in (0, 1].
        rng: Random generator.

    Raises:
        ConfigError: There is no such flaw for such pixels, or the severity is out of range.
    """
    known = VIDEO_FLAWS if pixels.ndim == 4 else IMAGE_FLAWS
    if flaw not in known:
        raise ConfigError(f"unknown flaw {flaw!r} for these pixels; there are {', '.join(known)}")
    if not 0 < severity <= 1:
        raise ConfigError(f"severity must be in (0, 1], given {severity}")
    frames = pixels.reshape(-1, *pixels.shape[-3:]).astype(np.float32)
    flawed = _FLAWS[flaw](frames, severity, rng)
    return np.clip(flawed + 0.5, 0, 255).astype(np.uint8).reshape(pixels.shape)
