"""Captions as text and as facts, their agreement with a scene, and the split they belong to.

Knows nothing of pixels and image quality.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from .scene import CELLS, MOVES, STILL, Scene, Thing, pick, row_column


Split = Literal["train", "test"]
FACT_KINDS = ("colour", "shape", "size", "place", "event", "relation", "count")
NUMBERS = ("one", "two", "three")
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_BESIDE = {"left of": "on its left", "right of": "on its right", "above": "above it"}
_BESIDE["below"] = "below it"


def split_of(text: str) -> Split:
    """Split a caption belongs to: ``test`` where its sha1, as a number, is divisible by ten."""
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return "test" if int(digest, 16) % 10 == 0 else "train"


@dataclass(frozen=True)
class Mention:
    """One thing as a caption mentions it; None for attributes it does not mention."""

    colour: str
    shape: str
    size: str | None = None
    cell: str | None = None
    event: str | None = None

    @property
    def name(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"

    def phrase(self) -> str:
        """The mention as words, without its event."""
        size = f"{self.size} " if self.size else ""
        place = f" at the {self.cell}" if self.cell else ""
        return f"a {size}{self.name}{place}"

    def clause(self) -> str:
        """The mention as words, with its event where it asserts one."""
        return f"{self.phrase()} {self.event}" if self.event else self.phrase()


class Relation(NamedTuple):
    """Mention ``subject`` is ``name`` (left of, right of, above, below) mention ``object``."""

    name: str
    subject: int
    object: int


@dataclass(frozen=True)
class Caption:
    """A sentence and its meaning: these things and no others, in this relation."""

    text: str
    objects: tuple[Mention, ...]
    relation: Relation | None = None


class Fact(NamedTuple):
    """One assertion of a caption, and whether it holds in a scene."""

    kind: str
    name: str
    holds: bool


def relation_holds(name: str, subject: Thing, other: Thing) -> bool:
    """Return whether the relation holds between the cells of two things, before any event.

    >>> low, high = Thing("red", "star", "small", "bottom left"), Thing(
    ...     "red", "cross", "small", "top right")
    >>> relation_holds("below", low, high), relation_holds("right of", low, high)
    (True, False)
    """
    (row, column), (other_row, other_column) = row_column(subject.cell), row_column(other.cell)
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[name]


def _facts_of_mention(mention: Mention, thing: Thing | None) -> list[Fact]:
    name = mention.name
    result = [
        Fact("colour", name, thing is not None and thing.colour == mention.colour),
        Fact("shape", name, thing is not None and thing.shape == mention.shape),
    ]
    if mention.size:
        holds = thing is not None and thing.size == mention.size
        result.append(Fact("size", f"{mention.size} {name}", holds))
    if mention.cell:
        holds = thing is not None and thing.cell == mention.cell
        result.append(Fact("place", f"{name} at the {mention.cell}", holds))
    if mention.event:
        holds = thing is not None and thing.event == mention.event
        result.append(Fact("event", f"{name} {mention.event}", holds))
    return result


def facts(caption: Caption, scene: Scene, *, ignoring: str = "") -> tuple[Fact, ...]:
    """Check every assertion of the caption against the scene.

    A caption asserts colour and shape of each thing it mentions; size, place and event where it
    names them; its relation; and that there are as many things as it mentions. Mentions are
    matched to things by the one-to-one assignment that makes most facts true; a mention without
    a thing has no true fact. The colour of a thing that turns is the colour before; the colour
    after belongs to the event.

    Args:
        caption: The caption.
        scene: The scene it is checked against.
        ignoring: A kind of fact (see ``FACT_KINDS``) to leave out.
    """
    n = len(caption.objects)
    things: list[Thing | None] = [*scene.things, *[None] * (n - len(scene.things))]
    best: list[Fact] = []
    for assigned in permutations(things, n):
        checked = [
            fact
            for mention, thing in zip(caption.objects, assigned, strict=True)
            for fact in _facts_of_mention(mention, thing)
        ]
        if caption.relation:
            name, i, j = caption.relation
            a, b = assigned[i], assigned[j]
            holds = a is not None and b is not None and relation_holds(name, a, b)
            checked.append(Fact("relation", name, holds))
        checked.append(
            Fact("count", f"{NUMBERS[n - 1]} object{'s' * (n > 1)}", n == len(scene.things))
        )
        checked = [fact for fact in checked if fact.kind != ignoring]
        if not best or sum(f.holds for f in checked) > sum(f.holds for f in best):
            best = checked
    return tuple(best)


def alignment(caption: Caption, scene: Scene, *, ignoring: str = "") -> float:
    """Share of the caption's facts that are true of the scene, 0 to 1.

    ``alignment = max over assignments (number of true facts) / (number of facts)``, see `facts`.

    >>> cross = Scene((Thing("red", "cross", "small", "top left"),))
    >>> alignment(Caption("a red star", (Mention("red", "star"),)), cross)  # colour, count; shape
    0.6666666666666666
    """
    checked = facts(caption, scene, ignoring=ignoring)
    return sum(fact.holds for fact in checked) / len(checked)


def elements(caption: Caption, scene: Scene) -> dict[str, float]:
    """Truth of each fact by its short name from the caption: 1.0 true, 0.0 false.

    Colour and shape of a mention are one element: "red circle" is true only if both are.
    """
    named: dict[str, float] = {}
    for fact in facts(caption, scene):
        named[fact.name] = min(named.get(fact.name, 1.0), float(fact.holds))
    return named


def full_caption(scene: Scene) -> Caption:
    """Caption that asserts everything but relations, in canonical words.

    >>> full_caption(Scene((Thing("red", "cross", "small", "top left"),))).text
    'a small red cross at the top left'
    """
    objects = tuple(
        Mention(t.colour, t.shape, t.size, t.cell, t.event if scene.is_video else None)
        for t in sorted(scene.things, key=lambda thing: CELLS.index(thing.cell))
    )
    return Caption(" and ".join(mention.clause() for mention in objects), objects)


def describe(scene: Scene) -> str:
    """Canonical description: every attribute of every thing, by cell from the top left."""
    return full_caption(scene).text


def _random_mention(thing: Thing, rng: np.random.Generator, *, p_place: float) -> Mention:
    says_size, says_place = rng.random(2) < (0.45, p_place)
    return Mention(
        thing.colour,
        thing.shape,
        thing.size if says_size and thing.event not in ("grows", "shrinks") else None,
        thing.cell if says_place and thing.event == STILL else None,
    )


def _random_relation(things: list[Thing], rng: np.random.Generator) -> Relation | None:
    """Sometimes a true relation of the first thing to the second; never if one of them moves."""
    is_moving = any(thing.event in MOVES for thing in things)
    if len(things) != 2 or is_moving or rng.random() > 0.4:
        return None
    return Relation(pick(rng, [name for name in _OPPOSITE if relation_holds(name, *things)]), 0, 1)


def _random_image_caption(things: list[Thing], rng: np.random.Generator) -> Caption:
    relation = _random_relation(things, rng)
    mentions = [_random_mention(thing, rng, p_place=0.0 if relation else 0.35) for thing in things]
    parts = [mention.phrase() for mention in mentions]
    if relation is None:
        core = (" with " if len(parts) == 2 and rng.random() < 0.3 else " and ").join(parts)
    elif rng.random() < 0.4:
        core = f"{parts[0]} with {parts[1]} {_BESIDE[_OPPOSITE[relation.name]]}"
    else:
        core = f"{parts[0]} {relation.name} {parts[1]}"
    opening = pick(rng, ("", "", "a picture of ", "there is "))
    return Caption(opening + core, tuple(mentions), relation)


def _random_video_caption(things: list[Thing], rng: np.random.Generator) -> Caption:
    """Caption that always mentions the event, and only sometimes that the others stay still."""
    if rng.random() < 0.7:
        things.sort(key=lambda thing: thing.event == STILL)
        relation = _random_relation(things, rng)
        says_stillness = relation is None and rng.random() < 0.5
    else:
        relation, says_stillness = None, True
    mentions: list[Mention] = []
    for i, thing in enumerate(things):
        mention = _random_mention(thing, rng, p_place=0.0 if relation else 0.35)
        has_event = i == 0 or says_stillness
        mentions.append(replace(mention, event=thing.event) if has_event else mention)
    first, *others = [mention.clause() for mention in mentions]
    if relation:
        core = f"{mentions[0].phrase()} {relation.name} {others[0]} {mentions[0].event}"
    elif others:
        link = pick(rng, (" and ", " while ")) if says_stillness else " with "
        core = first + link + " and ".join(others)
    else:
        core = first
    opening = pick(rng, ("", "", "a clip where "))
    return Caption(opening + core, tuple(mentions), relation)


def random_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Draw a caption that is true of the scene and mentions every thing in it, in varied words."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    return (_random_video_caption if scene.is_video else _random_image_caption)(things, rng)
