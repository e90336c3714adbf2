"""Questions about scenes with one right answer each, and right and wrong replies to them.

Knows nothing of pixels. A question is drawn only if its answer is unambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .captions import NUMBERS, Split, split_of
from .scene import CELLS, MOVES, SIZES, TURNS, Scene, Thing, pick, row_column
from .utilities import EVASIVE_UTILITY, answer_utility


Style = Literal["right", "partly", "wrong", "padded right", "padded wrong", "evasive"]
EVASIONS = ("it is hard to say", "i can not tell", "there is something")
FILLERS = (
    "well i think that the answer is {}",
    "looking at it i would say that it is {}",
    "{} as you can see if you look",
)


@dataclass(frozen=True)
class Question:
    """A question and its right answer as parts, each a value of one attribute.

    An answer's correctness is the share of parts that it gets right.
    """

    text: str
    truth: tuple[str, ...]
    """Right value of each part."""
    choices: tuple[Sequence[str], ...]
    """Possible values of each part; the right one may be among them."""
    attributes: tuple[str, ...]
    """Kind of fact (see ``captions.FACT_KINDS``) of each part."""
    frame: str = "{}"
    """Format string that joins the parts to a sentence."""
    is_description: bool = False

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.frame.format(*self.truth)


@dataclass(frozen=True)
class Reply:
    """An answer to a question, as text and as parts."""

    text: str
    parts: tuple[str, ...]
    """Value for each part of the question; empty if the reply is evasive."""
    is_padded: bool = False

    def utility(self, question: Question, *, ignoring: str = "") -> float:
        """Utility of the reply, 0 to 1, see `utilities`; ignored kinds of part count as right."""
        if not self.parts:
            return EVASIVE_UTILITY
        parts = zip(self.parts, question.truth, question.attributes, strict=True)
        right = [given == true or kind == ignoring for given, true, kind in parts]
        return answer_utility(sum(right) / len(right), is_padded=self.is_padded)


def _single(text: str, truth: str, choices: Sequence[str], attribute: str) -> Question:
    return Question(text, (truth,), (choices,), (attribute,))


def _looks(thing: Thing) -> set[str]:
    """Colours of a thing, before and after its event."""
    return {thing.colour, TURNS.get(thing.event, thing.colour)}


def _unique_shape(scene: Scene, rng: np.random.Generator) -> Thing | None:
    shapes = [thing.shape for thing in scene.things]
    able = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    return pick(rng, able) if able else None


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _unique_shape(scene, rng)
    if thing is None or len(_looks(thing)) > 1:
        return None
    text = f"what colour is the {thing.shape}?"
    return _single(text, thing.colour, scene.world.colours, "colour")


def _ask_final_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _unique_shape(scene, rng)
    if thing is None or thing.event not in TURNS:
        return None
    text = f"what colour is the {thing.shape} at the end?"
    return _single(text, TURNS[thing.event], scene.world.colours, "event")


def _ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    able = [
        thing
        for thing in scene.things
        if thing.event not in TURNS
        and sum(thing.colour in _looks(other) for other in scene.things) == 1
    ]
    if not able:
        return None
    thing = pick(rng, able)
    text = f"what shape is the {thing.colour} object?"
    return _single(text, thing.shape, scene.world.shapes, "shape")


def _ask_size(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    return _single(f"what size is the {thing.name}?", thing.size, SIZES, "size")


def _ask_place(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    return _single(f"where is the {thing.name}?", thing.cell, CELLS, "place")


def _ask_count(scene: Scene, _rng: np.random.Generator) -> Question:
    text = "how many objects are there?"
    return _single(text, NUMBERS[len(scene.things) - 1], NUMBERS, "count")


def _absent_name(scene: Scene, rng: np.random.Generator) -> str:
    """Name of no thing in the scene, with the colour or the shape of one that is there."""
    taken = {f"{colour} {thing.shape}" for thing in scene.things for colour in _looks(thing)}
    while True:
        thing = pick(rng, scene.things)
        if rng.random() < 0.5:
            name = f"{pick(rng, scene.world.colours)} {thing.shape}"
        else:
            name = f"{thing.colour} {pick(rng, scene.world.shapes)}"
        if name not in taken:
            return name


def _ask_existence(scene: Scene, rng: np.random.Generator) -> Question:
    is_there = rng.random() < 0.5
    name = pick(rng, scene.things).name if is_there else _absent_name(scene, rng)
    text, truth = f"is there a {name}?", "yes" if is_there else "no"
    return _single(text, truth, ("yes", "no"), "shape")


def _ask_content(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    return Question(
        f"what is at the {thing.cell}?",
        (thing.size, thing.colour, thing.shape),
        (SIZES, scene.world.colours, scene.world.shapes),
        ("size", "colour", "shape"),
        "{} {} {}",
    )


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask which of two things is further left, right, up or down."""
    if len(scene.things) != 2:
        return None
    places = [row_column(thing.cell) for thing in scene.things]
    sides = {
        "on the left": [column for _, column in places],
        "on the right": [-column for _, column in places],
        "at the top": [row for row, _ in places],
        "at the bottom": [-row for row, _ in places],
    }
    side = pick(rng, [name for name, along in sides.items() if along[0] != along[1]])
    along = sides[side]
    names = tuple(thing.name for thing in scene.things)
    truth = names[along.index(min(along))]
    return _single(f"which object is {side}?", truth, names, "relation")


def _ask_event(scene: Scene, rng: np.random.Generator) -> Question:
    thing = scene.actor if scene.actor and rng.random() < 0.8 else pick(rng, scene.things)
    choices = tuple(event for event in scene.world.events if TURNS.get(event) != thing.colour)
    text = f"what happens to the {thing.name}?"
    return Question(text, (thing.event,), (choices,), ("event",), "it {}")


def _ask_direction(scene: Scene, _rng: np.random.Generator) -> Question | None:
    actor = scene.actor
    if actor is None or actor.event not in MOVES:
        return None
    truth, *choices = (event.removeprefix("moves ") for event in (actor.event, *MOVES))
    return _single(f"which way does the {actor.name} move?", truth, choices, "event")


def _ask_actor(scene: Scene, rng: np.random.Generator) -> Question | None:
    if scene.actor is None:
        return None
    names = (*(thing.name for thing in scene.things), _absent_name(scene, rng))
    return _single(f"which object {scene.actor.event}?", scene.actor.name, names, "event")


def _ask_description(scene: Scene, _rng: np.random.Generator) -> Question:
    attributes: tuple[str, ...] = ("size", "colour", "shape", "place")
    choices: tuple[Sequence[str], ...] = (SIZES, scene.world.colours, scene.world.shapes, CELLS)
    clause = "a {} {} {} at the {}"
    if scene.is_video:
        attributes, clause = (*attributes, "event"), clause + " {}"
        choices = (*choices, scene.world.events)
    truth: list[str] = []
    for thing in sorted(scene.things, key=lambda thing: CELLS.index(thing.cell)):
        truth += [thing.size, thing.colour, thing.shape, thing.cell]
        truth += [thing.event] * scene.is_video
    n = len(scene.things)
    frame = " and ".join([clause] * n)
    text = f"describe the {'clip' if scene.is_video else 'picture'}"
    return Question(text, tuple(truth), choices * n, attributes * n, frame, is_description=True)


_Ask = Callable[[Scene, np.random.Generator], Question | None]
_IMAGE_QUESTIONS: tuple[_Ask, ...] = (
    _ask_colour,
    _ask_shape,
    _ask_size,
    _ask_place,
    _ask_count,
    _ask_existence,
    _ask_content,
    _ask_relation,
    _ask_description,
)
_VIDEO_QUESTIONS: tuple[_Ask, ...] = (
    _ask_event,
    _ask_event,
    _ask_direction,
    _ask_final_colour,
    _ask_actor,
    _ask_colour,
    _ask_shape,
    _ask_existence,
    _ask_description,
)


def random_question(scene: Scene, rng: np.random.Generator) -> Question:
    """Draw a question about the scene, every kind that fits equally likely."""
    kinds = _VIDEO_QUESTIONS if scene.is_video else _IMAGE_QUESTIONS
    while True:
        question = pick(rng, kinds)(scene, rng)
        if question is not None:
            return question


def description_question(scene: Scene) -> Question:
    """Make the question whose answer is `describe(scene)`."""
    return _ask_description(scene, np.random.default_rng(0))


def _altered(question: Question, n_wrong: int, rng: np.random.Generator) -> tuple[str, ...]:
    parts = list(question.truth)
    for i in rng.permutation(len(parts))[:n_wrong]:
        parts[i] = pick(rng, [value for value in question.choices[i] if value != parts[i]])
    return tuple(parts)


def random_reply(
    question: Question, style: Style, rng: np.random.Generator, *, split: Split
) -> Reply:
    """Draw a reply of the given style.

    Args:
        question: The question to answer.
        style: ``partly`` gets some parts wrong but not all; if the answer has only one part, it
            is ``wrong`` instead.
        rng: Random generator.
        split: In ``train``, a false description is never a test caption.
    """
    if style == "evasive":
        return Reply(pick(rng, EVASIONS), ())
    n_wrong = 0 if style in ("right", "padded right") else len(question.truth)
    if style == "partly" and n_wrong > 1:
        n_wrong = int(rng.integers(1, n_wrong))
    while True:
        parts = _altered(question, n_wrong, rng)
        text = question.frame.format(*parts)
        if split == "test" or not question.is_description or split_of(text) == "train":
            break
    if style.startswith("padded"):
        return Reply(pick(rng, FILLERS).format(text), parts, is_padded=True)
    return Reply(text, parts)
