"""Scenes: the contents of an image or a video of the microworld, and random ones.

Knows nothing of pixels, captions or utilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from unified_reward.core.errors import DataError

from .palette import PALETTE


COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
CELLS = ("top left", "top right", "bottom left", "bottom right")
STILL = "stays still"
MOVES = {"moves left": (0, -1), "moves right": (0, 1), "moves up": (-1, 0), "moves down": (1, 0)}
"""Event -> change of (row, column)."""
TURNS = {f"turns {colour}": colour for colour in COLOURS}
"""Event -> colour at the end."""
EVENTS = (STILL, *MOVES, "grows", "shrinks", "appears", "disappears", *TURNS)
MAX_THINGS = 3


@dataclass(frozen=True)
class World:
    """Vocabulary of scenes, and of wrong answers about them."""

    name: str = ""
    """Suffix of the ids of its examples; empty for the full microworld."""
    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    numbers: tuple[int, ...] = (1, 2, 2)
    """Numbers of things in a scene, each equally likely."""

    @property
    def turns(self) -> tuple[str, ...]:
        """Events after which a thing has one of the colours."""
        return tuple(event for event, colour in TURNS.items() if colour in self.colours)

    @property
    def events(self) -> tuple[str, ...]:
        """All events of this world."""
        return (*(event for event in EVENTS if event not in TURNS), *self.turns)


FULL_WORLD = World()
HARD_WORLD = World("hard", numbers=(3,))
HALF_WORLDS = {
    "a": World("a", ("red", "green", "blue"), ("circle", "square")),
    "b": World("b", ("yellow", "purple", "black"), ("triangle", "star")),
}
"""Two worlds of equal size without a common colour or shape."""

_T = TypeVar("_T")


def pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """Choose one of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def row_column(cell: str) -> tuple[int, int]:
    """Position of a cell in the grid; row 0 is at the top, column 0 on the left.

    >>> row_column("bottom left")
    (1, 0)
    """
    return divmod(CELLS.index(cell), 2)


@dataclass(frozen=True)
class Thing:
    """One object. Its colour, size and cell are those before its event, or after it appeared."""

    colour: str
    shape: str
    size: str
    cell: str
    event: str = STILL

    @property
    def name(self) -> str:
        """Colour and shape, unique in a scene."""
        return f"{self.colour} {self.shape}"

    def destination(self) -> str | None:
        """Cell where the thing ends; None if that is outside the grid."""
        if self.event not in MOVES:
            return self.cell
        row, column = row_column(self.cell)
        down, right = MOVES[self.event]
        inside = 0 <= row + down <= 1 and 0 <= column + right <= 1
        return CELLS[2 * (row + down) + column + right] if inside else None

    def at_start(self) -> Thing | None:
        """Return the still thing before its event; None if it has not appeared yet."""
        return None if self.event == "appears" else replace(self, event=STILL)

    def at_end(self) -> Thing | None:
        """Return the still thing after its event; None if it has disappeared.

        >>> Thing("red", "star", "small", "top left", "moves down").at_end().cell
        'bottom left'
        """
        if self.event == "disappears":
            return None
        size = {"grows": "large", "shrinks": "small"}.get(self.event, self.size)
        return Thing(
            colour=TURNS.get(self.event, self.colour),
            shape=self.shape,
            size=size,
            cell=self.destination() or self.cell,
        )


def _event_is_possible(thing: Thing) -> bool:
    return (
        thing.destination() is not None
        and (thing.event, thing.size) not in (("grows", "large"), ("shrinks", "small"))
        and TURNS.get(thing.event) != thing.colour
    )


def scene_error(things: Sequence[Thing]) -> str:
    """Explain why these things cannot share a scene; empty if they can.

    A cell holds one thing, before and after; no two things share both colour and shape; at most
    one thing has an event, and the event must be possible.
    """
    if not 1 <= len(things) <= MAX_THINGS:
        return f"a scene holds 1 to {MAX_THINGS} things, not {len(things)}"
    if sum(thing.event != STILL for thing in things) > 1:
        return "two things have an event"
    impossible = [thing for thing in things if not _event_is_possible(thing)]
    if impossible:
        return f"the event is impossible for {impossible[0]}"
    ends = [t if t.event == STILL else t.at_end() or t for t in things]
    for state in (things, ends):
        if len({thing.cell for thing in state}) < len(things):
            return "two things share a cell"
        if len({thing.name for thing in state}) < len(things):
            return "two things share colour and shape"
    return ""


@dataclass(frozen=True)
class Scene:
    """Things that fit together (see `scene_error`), in an image or a video.

    Raises:
        DataError: The things cannot share a scene, or an image has an event.
    """

    things: tuple[Thing, ...]
    is_video: bool = False
    world: World = field(default=FULL_WORLD, compare=False)
    """Vocabulary that changes of the scene stay within."""

    def __post_init__(self) -> None:
        why = scene_error(self.things)
        if not why and not self.is_video and any(t.event != STILL for t in self.things):
            why = "an image has no events; pass is_video=True"
        if why:
            raise DataError(f"impossible scene: {why}, given {self.things}")

    @property
    def actor(self) -> Thing | None:
        """Thing with an event; None if nothing happens."""
        return next((thing for thing in self.things if thing.event != STILL), None)


def possible_events(
    thing: Thing, others: Sequence[Thing], world: World = FULL_WORLD
) -> list[tuple[str, ...]]:
    """Events the thing can have beside still others, one group per kind, none empty."""
    groups = (tuple(MOVES), ("grows", "shrinks"), ("appears",), ("disappears",), world.turns)
    fitting = (
        tuple(e for e in group if not scene_error([*others, replace(thing, event=e)]))
        for group in groups
    )
    return [group for group in fitting if group]


def random_thing(rng: np.random.Generator, cell: str, world: World = FULL_WORLD) -> Thing:
    """Draw a still thing in this cell, all attributes equally likely."""
    return Thing(pick(rng, world.colours), pick(rng, world.shapes), pick(rng, SIZES), cell)


def random_scene(
    rng: np.random.Generator,
    *,
    is_video: bool,
    n_things: int | None = None,
    world: World = FULL_WORLD,
) -> Scene:
    """Draw a scene; in a video one thing has an event, in one of sixteen none has.

    Args:
        rng: Random generator.
        is_video: Whether the scene is a video.
        n_things: Number of things, 1 to 3; None for one of ``world.numbers``.
        world: Vocabulary of the scene.
    """
    if n_things is None:
        n_things = pick(rng, world.numbers)
    while True:
        cells = [CELLS[i] for i in rng.permutation(4)[:n_things]]
        things = [random_thing(rng, cell, world) for cell in cells]
        if len({thing.name for thing in things}) == n_things:
            break
    if is_video and rng.random() > 1 / 16:
        actor, *others = things
        event = pick(rng, pick(rng, possible_events(actor, others, world)))
        things[0] = replace(actor, event=event)
    return Scene(tuple(sorted(things, key=lambda thing: CELLS.index(thing.cell))), is_video, world)
