"""Questions that teach a small model to see the microworld, its exams, and its vocabulary.

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
    random_scene,
    random_variation,
)
from .captions import Caption, Split, alignment, describe, elements, random_caption, split_of
from .items import GENERATION_TASKS, TASKS, VIDEO_TASKS, random_style
from .questions import description_question, random_question, random_reply
from .scene import CELLS, Scene, pick


LESSON_KINDS = tuple(
    f"{medium}_{topic}"
    for medium in ("image", "video")
    for topic in ("grid", "caption", "question", "facts", "fact", "check", "choice")
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
    """A question about one or two images or videos, with its only right answer."""

    media: tuple[Image | Video, ...]
    question: str
    answer: str
    kind: str
    """One of ``LESSON_KINDS``."""


@dataclass(frozen=True)
class _Draft:
    """A lesson before its scenes are rendered."""

    scenes: tuple[Scene, ...]
    question: str
    answer: str


def _random_described_scene(rng: np.random.Generator, *, split: Split, is_video: bool) -> Scene:
    while True:
        scene = random_scene(rng, is_video=is_video)
        if split_of(describe(scene)) == split:
            return scene


def _random_captioned_scene(
    rng: np.random.Generator, *, split: Split, is_video: bool
) -> tuple[Scene, Caption]:
    while True:
        scene = _random_described_scene(rng, split=split, is_video=is_video)
        caption = random_caption(scene, rng)
        if split_of(caption.text) == split:
            return scene, caption


def _random_contrast(
    scene: Scene, caption: Caption, rng: np.random.Generator, split: Split
) -> Scene:
    """Draw a scene that the caption is not true of, mostly different in one attribute."""
    while True:
        other = random_variation(scene, pick(rng, (1, 1, 1, 1, 2, 4)), rng)
        if alignment(caption, other) < 1 and split_of(describe(other)) == split:
            return other


def _grid(scene: Scene) -> str:
    """Contents and event of every cell, in order; dense and never ambiguous."""
    things = {thing.cell: thing for thing in scene.things}
    contents: list[str] = []
    for cell in CELLS:
        thing = things.get(cell)
        event = f" {thing.event}" if thing and scene.is_video else ""
        contents.append(f"{thing.size} {thing.name}{event}" if thing else "nothing")
    return ", ".join(contents)


def _draft(kind: str, rng: np.random.Generator, split: Split) -> _Draft:
    medium, _, topic = kind.partition("_")
    is_video = medium == "video"
    if topic in ("grid", "caption", "question"):
        scene = _random_described_scene(rng, split=split, is_video=is_video)
        if topic == "grid":
            return _Draft((scene,), "list the cells", _grid(scene))
        is_caption = topic == "caption"
        question = description_question(scene) if is_caption else random_question(scene, rng)
        return _Draft((scene,), question.text, question.answer)
    scene, caption = _random_captioned_scene(rng, split=split, is_video=is_video)
    other = _random_contrast(scene, caption, rng, split)
    is_true = rng.random() < 0.5
    if topic in ("facts", "fact"):
        checked = scene if rng.random() < 0.25 else other
        return _draft_facts(topic, caption, checked, rng, is_true=is_true)
    if topic == "check":
        answer = "yes" if is_true else "no"
        return _Draft((scene if is_true else other,), f"{caption.text}?", answer)
    scenes = (scene, other) if is_true else (other, scene)
    return _Draft(scenes, f"which? {caption.text}", "first" if is_true else "second")


def _draft_facts(
    topic: str, caption: Caption, scene: Scene, rng: np.random.Generator, *, is_true: bool
) -> _Draft:
    """Ask for all facts of the caption, or for one that is true or false."""
    answers = {name: "yes" if holds else "no" for name, holds in elements(caption, scene).items()}
    if topic == "facts":
        text = ", ".join(f"{name} {answer}" for name, answer in answers.items())
        return _Draft((scene,), f"check: {caption.text}", text)
    if caption.relation:
        del answers[caption.relation.name]  # its name alone does not say between which things
    alike = [name for name, answer in answers.items() if (answer == "yes") == is_true]
    name = pick(rng, alike or list(answers))
    return _Draft((scene,), f"{name}?", answers[name])


def lesson(kind: str, *, seed: int, index: int) -> Lesson:
    """Make a lesson of the training split; a fifth of its media have a flaw.

    Args:
        kind: One of ``LESSON_KINDS``: ``grid`` (what each cell holds, in order), ``caption`` (the
            full description), ``question``, ``facts`` (which of a caption's facts are true),
            ``fact`` (is one fact true), ``check`` (is the whole caption true, yes or no),
            ``choice`` (which of two, first or second).
        seed: Seed of a series of lessons.
        index: Index in the series.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in LESSON_KINDS:
        raise ConfigError(f"unknown lesson {kind!r}; there are {', '.join(LESSON_KINDS)}")
    rng = keyed_rng("lesson", kind, seed, index)
    draft = _draft(kind, rng, "train")
    media = tuple(add_random_flaw(scene, rng, p_flaw=_P_FLAW).render(rng) for scene in draft.scenes)
    return Lesson(media, draft.question, draft.answer, kind)


def exam(task: Task, *, seed: int, index: int) -> Lesson:
    """Make a question of the test split about flawless media.

    Args:
        task: ``question`` for understanding, ``check`` for generation, of an image or a video.
        seed: Seed of a series of questions.
        index: Index in the series.

    Raises:
        ConfigError: The microworld has no such task.
    """
    if task not in TASKS:
        raise ConfigError(f"microworld has no task {str(task)!r}; there are {', '.join(TASKS)}")
    medium = "video" if task in VIDEO_TASKS else "image"
    kind = f"{medium}_check" if task in GENERATION_TASKS else f"{medium}_question"
    rng = keyed_rng("exam", kind, seed, index)
    draft = _draft(kind, rng, "test")
    media = tuple(CandidateScene(scene).render(rng) for scene in draft.scenes)
    return Lesson(media, draft.question, draft.answer, kind)


def corpus(n: int, seed: int) -> Iterator[str]:
    """Generate texts of the training split: captions, questions, and right and wrong answers.

    Args:
        n: Number of texts.
        seed: Seed of the series.
    """
    rng = keyed_rng("corpus", seed)
    for i in range(n):
        kind = LESSON_KINDS[i % len(LESSON_KINDS)]
        if rng.random() < 0.5:
            draft = _draft(kind, rng, "train")
            yield f"{draft.question} {draft.answer}"
            continue
        scene = _random_described_scene(rng, split="train", is_video=kind.startswith("video"))
        question = random_question(scene, rng)
        reply = random_reply(question, random_style(rng), rng, split="train")
        yield f"{question.text} {reply.text}"


def vocabulary() -> tuple[str, ...]:
    """Return every word of captions, questions and answers, sorted, without punctuation."""
    return tuple(sorted(_WORDS.split()))
