"""Edits of images: an instruction, what it makes of a scene, and how well another scene obeys it.

Knows nothing of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .captions import Mention, describe, facts, full_caption, split_of
from .corrupt import mutate
from .scene import CELLS, MAX_THINGS, SIZES, Scene, Thing, pick, random_thing, scene_error


EDIT_KINDS = ("colour", "shape", "size", "place", "add", "remove")
_WORDS = {
    "colour": "make the {name} {value}",
    "shape": "turn the {name} into a {value}",
    "size": "make the {name} {value}",
    "place": "move the {name} to the {value}",
}
_FIELDS = {"colour": "colour", "shape": "shape", "size": "size", "place": "cell"}


@dataclass(frozen=True)
class Edit:
    """An instruction and the scenes before and after it."""

    text: str
    kind: str
    """One of ``EDIT_KINDS``."""
    source: Scene
    target: Scene
    done: Mention | None
    """The thing as the instruction leaves it, its changed attributes alone; None for a removal."""

    def split(self) -> str:
        """``test`` where the instruction and the scene it is given for belong to it."""
        return split_of(f"{self.text}: {describe(self.source)}")

    def judged(self, scene: Scene) -> tuple[float, float]:
        """How far another scene does what is asked, and how far it leaves all else as it was.

        Both are shares of facts that hold, of the complete description of what should be there:
        ``success`` of those that the instruction brings about (for a removal that there is one
        thing fewer, and not the named one), ``kept`` of the others. Things are taken from the top
        left on, so that the order in which a scene lists them does not matter.

        Returns:
            Success and kept, each in [0, 1].
        """
        found = facts(full_caption(self.target), _with(scene, scene.things))
        asked = [fact.holds for fact in found if self._is_asked(fact.kind, fact.name)]
        if self.done is None:
            (removed,) = {*self.source.things} - {*self.target.things}
            asked = [all(asked) and removed.name not in {one.name for one in scene.things}]
        kept = [fact.holds for fact in found if not self._is_asked(fact.kind, fact.name)]
        return sum(asked) / len(asked), sum(kept) / len(kept) if kept else 1.0

    def _is_asked(self, kind: str, name: str) -> bool:
        if self.done is None:
            return kind == "count"
        if self.kind == "add":
            return kind == "count" or self.done.name in name
        return kind == self.kind and self.done.name in name


def edit_utility(success: float, kept: float, quality: float) -> float:
    """Worth of an edited image.

    ``u = (0.7 success + 0.3 kept) * (0.7 + 0.3 quality)``: an image left as it was keeps a
    little, and one that obeys and ruins the rest is worth less than one that only obeys.

    >>> round(edit_utility(success=1.0, kept=0.5, quality=1.0), 3)
    0.85
    """
    return (0.7 * success + 0.3 * kept) * (0.7 + 0.3 * quality)


def random_edit(scene: Scene, rng: np.random.Generator) -> Edit:
    """An edit of an image that changes it, of any kind that is possible there."""
    while True:
        kind = pick(rng, EDIT_KINDS)
        made = _add(scene, rng) if kind == "add" else _change(scene, kind, rng)
        if made is not None:
            return made


def _add(scene: Scene, rng: np.random.Generator) -> Edit | None:
    free = [cell for cell in CELLS if cell not in {thing.cell for thing in scene.things}]
    thing = random_thing(rng, pick(rng, free), scene.world)
    things = (*scene.things, thing)
    if len(things) > MAX_THINGS or scene_error(things):
        return None
    told = Mention(thing.colour, thing.shape, thing.size, thing.cell)
    return Edit(f"add {told.phrase()}", "add", scene, _with(scene, things), told)


def _change(scene: Scene, kind: str, rng: np.random.Generator) -> Edit | None:
    at = int(rng.integers(len(scene.things)))
    old, others = scene.things[at], scene.things[:at] + scene.things[at + 1 :]
    if kind == "remove":
        if not others:
            return None
        return Edit(f"remove the {old.name}", kind, scene, _with(scene, others), None)
    field = _FIELDS[kind]
    value = pick(rng, _values(scene, kind))
    new = replace(old, **{field: value})
    if new == old or scene_error((*others, new)):
        return None
    text = _WORDS[kind].format(name=old.name, value=value)
    target = _with(scene, (*others, new))
    return Edit(text, kind, scene, target, Mention(new.colour, new.shape))


def _values(scene: Scene, kind: str) -> tuple[str, ...]:
    return {
        "colour": scene.world.colours,
        "shape": scene.world.shapes,
        "size": SIZES,
        "place": CELLS,
    }[kind]


def _with(scene: Scene, things: tuple[Thing, ...]) -> Scene:
    ordered = sorted(things, key=lambda thing: CELLS.index(thing.cell))
    return replace(scene, things=tuple(ordered))


def apply_edit(edit: Edit, how: str, rng: np.random.Generator) -> Scene:
    """A scene as an editor may leave it.

    Args:
        edit: What was asked.
        how: ``right``; ``undone``, the source; ``astray``, another edit of the source; ``overdone``
            or ``spoilt``, the right one with one or two further changes.
        rng: Where the randomness comes from.
    """
    match how:
        case "right":
            return edit.target
        case "undone":
            return edit.source
        case "astray":
            return random_edit(edit.source, rng).target
        case "overdone":
            return mutate(edit.target, 1, rng)
    return mutate(edit.target, 2, rng)
