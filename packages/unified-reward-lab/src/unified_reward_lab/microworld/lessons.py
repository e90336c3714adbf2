"""Lessons that teach a small model to see the microworld, its exams, and its words.

Lessons come from the training split alone, exams from the test split alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Task, Video

from .candidate_scenes import (
    CandidateScene,
    add_random_flaw,
    keyed_rng,
    random_sized_scene,
    random_variation,
)
from .captions import Caption, Split, alignment, describe, elements, random_caption, split_of
from .items import GENERATION_TASKS, TASKS, VIDEO_TASKS, random_style
from .questions import description_question, random_question, random_reply
from .scene import CELLS, Scene, pick


LESSON_KINDS = tuple(
    f"{medium}_{what}"
    for medium in ("image", "video")
    for what in ("grid", "caption", "question", "facts", "fact", "check", "choice")
)
_P_FLAW = 0.2
_WORDS = """
red green blue yellow purple black circle square triangle star cross small large top bottom left
right up down above below a the of at with and while where is are there it its on to i you
picture clip object objects moves move grows shrinks appears disappears turns stays still
what which how many way does happens colour shape size end describe one two three yes no
first second list cells nothing well think that answer looking look would say as can see if hard
not tell something check
"""


@dataclass(frozen=True)
class Lesson:
    """A question about one or two images or videos, with its one right answer."""

    media: tuple[Image | Video, ...]
    question: str
    answer: str
    kind: str
    """One of ``LESSON_KINDS``."""


@dataclass(frozen=True)
class _Draft:
    """A lesson before anything is drawn in pixels."""

    scenes: tuple[Scene, ...]
    question: str
    answer: str


def _draw_shown(rng: np.random.Generator, *, split: Split, is_video: bool) -> Scene:
    while True:
        scene = random_sized_scene(rng, is_video=is_video)
        if split_of(describe(scene)) == split:
            return scene


def _draw_stated(
    rng: np.random.Generator, *, split: Split, is_video: bool
) -> tuple[Scene, Caption]:
    while True:
        scene = _draw_shown(rng, split=split, is_video=is_video)
        caption = random_caption(scene, rng)
        if split_of(caption.text) == split:
            return scene, caption


def _draw_contrast(scene: Scene, caption: Caption, rng: np.random.Generator, split: Split) -> Scene:
    """A scene the caption is not true of, mostly different in one attribute."""
    while True:
        other = random_variation(scene, pick(rng, (1, 1, 1, 1, 2, 4)), rng)
        if alignment(caption, other) < 1 and split_of(describe(other)) == split:
            return other


def _grid(scene: Scene) -> str:
    """What each cell holds and what becomes of it, cell by cell; dense and never ambiguous."""
    inside = {thing.cell: thing for thing in scene.things}
    said: list[str] = []
    for cell in CELLS:
        thing = inside.get(cell)
        event = f" {thing.event}" if thing and scene.is_video else ""
        said.append(f"{thing.size} {thing.name}{event}" if thing else "nothing")
    return ", ".join(said)


def _draft(kind: str, rng: np.random.Generator, split: Split) -> _Draft:
    medium, _, what = kind.partition("_")
    is_video = medium == "video"
    if what == "grid":
        scene = _draw_shown(rng, split=split, is_video=is_video)
        return _Draft((scene,), "list the cells", _grid(scene))
    if what in ("caption", "question"):
        scene = _draw_shown(rng, split=split, is_video=is_video)
        asked = description_question(scene) if what == "caption" else random_question(scene, rng)
        return _Draft((scene,), asked.text, asked.answer)
    scene, caption = _draw_stated(rng, split=split, is_video=is_video)
    other = _draw_contrast(scene, caption, rng, split)
    is_so = rng.random() < 0.5
    if what in ("facts", "fact"):
        shown = scene if rng.random() < 0.25 else other
        found = {name: "yes" if holds else "no" for name, holds in elements(caption, shown).items()}
        if what == "facts":
            told = ", ".join(f"{name} {said}" for name, said in found.items())
            return _Draft((shown,), f"check: {caption.text}", told)
        if caption.relation:
            del found[caption.relation.name]  # of what, the name alone does not say
        alike = [name for name, said in found.items() if (said == "yes") == is_so]
        name = pick(rng, alike or list(found))
        return _Draft((shown,), f"{name}?", found[name])
    if what == "check":
        return _Draft((scene if is_so else other,), f"{caption.text}?", "yes" if is_so else "no")
    scenes = (scene, other) if is_so else (other, scene)
    return _Draft(scenes, f"which? {caption.text}", "first" if is_so else "second")


def lesson(kind: str, *, seed: int, index: int) -> Lesson:
    """One lesson of the training split; a fifth of its media have a flaw.

    Args:
        kind: One of ``LESSON_KINDS``: ``grid`` (what each cell holds, in order), ``caption`` (the
            full description), ``question``, ``facts`` (which of a caption's facts are true),
            ``fact`` (is one fact true), ``check`` (is the whole caption true, yes or no),
            ``choice`` (which of two, first or second).
        seed: Names a series of lessons.
        index: Place in the series.

    Raises:
        ConfigError: No such kind.
    """
    if kind not in LESSON_KINDS:
        raise ConfigError(f"no lesson {kind!r}; there are {', '.join(LESSON_KINDS)}")
    rng = keyed_rng("lesson", kind, seed, index)
    draft = _draft(kind, rng, "train")
    media = tuple(add_random_flaw(one, rng, p_flaw=_P_FLAW).medium(rng) for one in draft.scenes)
    return Lesson(media, draft.question, draft.answer, kind)


def exam(task: Task, *, seed: int, index: int) -> Lesson:
    """One flawless question of the test split.

    Args:
        task: Understanding asks ``question``, generation asks ``check``, of image or video.
        seed: Names a series of questions.
        index: Place in the series.

    Raises:
        ConfigError: The microworld has no such task.
    """
    if task not in TASKS:
        raise ConfigError(f"microworld has no task {str(task)!r}; there are {', '.join(TASKS)}")
    medium = "video" if task in VIDEO_TASKS else "image"
    kind = f"{medium}_check" if task in GENERATION_TASKS else f"{medium}_question"
    rng = keyed_rng("exam", kind, seed, index)
    draft = _draft(kind, rng, "test")
    media = tuple(CandidateScene(one).medium(rng) for one in draft.scenes)
    return Lesson(media, draft.question, draft.answer, kind)


def corpus(n: int, seed: int) -> Iterator[str]:
    """Texts of the training split: captions, questions, and their right and other answers.

    Args:
        n: How many.
        seed: Names a series of texts.
    """
    rng = keyed_rng("corpus", seed)
    for i in range(n):
        kind = LESSON_KINDS[i % len(LESSON_KINDS)]
        if rng.random() < 0.5:
            draft = _draft(kind, rng, "train")
            yield f"{draft.question} {draft.answer}"
            continue
        scene = _draw_shown(rng, split="train", is_video=kind.startswith("video"))
        asked = random_question(scene, rng)
        yield f"{asked.text} {random_reply(asked, random_style(rng), rng, split='train').text}"


def vocabulary() -> tuple[str, ...]:
    """Every word that captions, questions and answers are made of, sorted, without punctuation."""
    return tuple(sorted(_WORDS.split()))
