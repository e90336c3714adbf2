"""Edits of images: instructions, their results, and the score of any other result.

Knows nothing of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .captions import Mention, describe, facts, full_caption, split_of
from .corrupt import mutate
from .scene import CELLS, MAX_THINGS, SIZES, Scene, Thing, pick, random_thing, scene_error


EDIT_KINDS = ("colour", "shape", "size", "place", "add", "remove")
EditOutcome = Literal["right", "unchanged", "another edit", "one mistake", "two mistakes"]
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
    result: Mention | None
    """The changed thing after the edit; None for a removal."""

    def split(self) -> str:
        """Split that the instruction and its source scene belong to."""
        return split_of(f"{self.text}: {describe(self.source)}")

    def evaluate(self, scene: Scene) -> tuple[float, float]:
        """Success of an edited scene, and the share of the rest that it kept.

        Both are shares of facts that hold, out of the complete description of the target scene:
        ``success`` of those that the instruction changes (for a removal: one thing fewer, and the
        named one is gone), ``kept`` of the others. The order in which the scene lists its things
        does not matter.

        Returns:
            Success and kept, each in [0, 1].
        """
        checked = facts(full_caption(self.target), _with(scene, scene.things))
        changed = [fact.holds for fact in checked if self._is_changed(fact.kind, fact.name)]
        if self.result is None:
            (removed,) = {*self.source.things} - {*self.target.things}
            changed = [all(changed) and removed.name not in {t.name for t in scene.things}]
        kept = [fact.holds for fact in checked if not self._is_changed(fact.kind, fact.name)]
        return sum(changed) / len(changed), sum(kept) / len(kept) if kept else 1.0

    def _is_changed(self, kind: str, name: str) -> bool:
        if self.result is None:
            return kind == "count"
        if self.kind == "add":
            return kind == "count" or self.result.name in name
        return kind == self.kind and self.result.name in name


def edit_utility(success: float, kept: float, quality: float) -> float:
    """Utility of an edited image.

    ``u = (0.7 success + 0.3 kept) * (0.7 + 0.3 quality)``: an unchanged
    image keeps a little, and a successful edit that ruins the rest scores below a clean one.

    >>> round(edit_utility(success=1.0, kept=0.5, quality=1.0), 3)
    0.85
    """
    return (0.7 * success + 0.3 * kept) * (0.7 + 0.3 * quality)


def random_edit(scene: Scene, rng: np.random.Generator) -> Edit:
    """Draw an edit of an image that changes it, of any kind that is possible in the scene."""
    while True:
        kind = pick(rng, EDIT_KINDS)
        edit = _add(scene, rng) if kind == "add" else _change(scene, kind, rng)
        if edit is not None:
            return edit


def _add(scene: Scene, rng: np.random.Generator) -> Edit | None:
    free = [cell for cell in CELLS if cell not in {thing.cell for thing in scene.things}]
    thing = random_thing(rng, pick(rng, free), scene.world)
    things = (*scene.things, thing)
    if len(things) > MAX_THINGS or scene_error(things):
        return None
    added = Mention(thing.colour, thing.shape, thing.size, thing.cell)
    return Edit(f"add {added.phrase()}", "add", scene, _with(scene, things), added)


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


def apply_edit(edit: Edit, outcome: EditOutcome, rng: np.random.Generator) -> Scene:
    """Make a scene that an editor, good or bad, might return.

    Args:
        edit: The requested edit.
        outcome: ``right``, the target; ``unchanged``, the source; ``another edit`` of the source;
            ``one mistake`` or ``two mistakes``, the target with further changes.
        rng: Random generator.
    """
    match outcome:
        case "right":
            return edit.target
        case "unchanged":
            return edit.source
        case "another edit":
            return random_edit(edit.source, rng).target
        case "one mistake":
            return mutate(edit.target, 1, rng)
        case "two mistakes":
            return mutate(edit.target, 2, rng)
