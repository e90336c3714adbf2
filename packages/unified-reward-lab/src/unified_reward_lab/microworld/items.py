"""Judged items with their true utilities: candidates to score or to compare, for five tasks.

An item, or a pool of candidates, is a function of its arguments and of nothing else. Writing files
is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

import numpy as np

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Candidate, Example, Form, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Scale

from .annotators import NOISELESS, Annotator
from .candidate_scenes import (
    CandidateScene,
    add_random_flaw,
    keyed_rng,
    random_scene_with_caption,
    random_sized_scene,
    random_variation,
)
from .captions import Split, describe, elements, split_of
from .edits import Edit, apply_edit, edit_utility, random_edit
from .questions import Question, Reply, Style, random_question, random_reply
from .scene import FULL_WORLD, Scene, World, pick
from .utilities import TIE_MARGIN


SOURCE = "microworld"
UNIT = Scale(0.0, 1.0)
VIDEO_TASKS = (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING)
GENERATION_TASKS = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
SPLITS: tuple[Split, ...] = ("train", "test")
TASKS = (*GENERATION_TASKS, Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)
JUDGED_TASKS = (*TASKS, Task.IMAGE_EDITING)
"""Of items; pools, briefs and lessons are of ``TASKS`` alone."""

_P_TIE = 0.08
_P_FLAW = 0.35
_GAP_EDGES = (0.12, 0.25, 0.45)
_DEPARTURES = (0, 0, 0, 1, 1, 2, 2, 3, 3, 4)
_STYLES: dict[Style, float] = {
    "right": 0.3,
    "wrong": 0.27,
    "partly": 0.2,
    "padded right": 0.1,
    "padded wrong": 0.05,
    "evasive": 0.08,
}

_EDITS = ("right", "right", "undone", "astray", "overdone", "overdone", "spoilt")

_T = TypeVar("_T")


class _Option(NamedTuple):
    """A candidate with its worth, and its worth to an annotator who may be blind."""

    candidate: Candidate
    utility: float
    seen: float


def _is_tie(first: float, second: float) -> bool:
    return abs(first - second) <= TIE_MARGIN + 1e-9


def _draw_pair(
    rated: Sequence[tuple[_T, float]], rng: np.random.Generator, *, wants_tie: bool
) -> tuple[_T, _T]:
    """Two of these in random order: a tie if wanted, else of any gap in utility.

    Small, middling and large gaps come up equally often, as far as they are there.
    """
    bins: dict[int, list[tuple[_T, _T]]] = {}
    for (one, u1), (two, u2) in combinations(rated, 2):
        size = -1 if _is_tie(u1, u2) else sum(abs(u1 - u2) > edge for edge in _GAP_EDGES)
        bins.setdefault(size, []).append((one, two))
    gaps = sorted(size for size in bins if size >= 0)
    if not gaps or (wants_tie and -1 in bins):
        gaps = [-1]
    one, two = pick(rng, bins[pick(rng, gaps)])
    return (one, two) if rng.random() < 0.5 else (two, one)


class _Wish(NamedTuple):
    """What item is wanted."""

    is_video: bool
    form: Form
    split: Split
    blind: str
    """Kind of fact that the annotator does not see."""
    world: World


class _Draft(NamedTuple):
    """An item without its label."""

    prompt: str
    context: tuple[Image | Video, ...]
    options: tuple[_Option, ...]
    elements: dict[str, float]


def _draw_shown(scene: Scene, rng: np.random.Generator) -> CandidateScene:
    """The scene or something further from it, sometimes with a flaw."""
    return add_random_flaw(
        random_variation(scene, pick(rng, _DEPARTURES), rng), rng, p_flaw=_P_FLAW
    )


def _draft_generation(wish: _Wish, rng: np.random.Generator) -> _Draft:
    """A caption, and one or two images or videos of what it says or of something else."""
    scene, caption = random_scene_with_caption(
        rng, split=wish.split, is_video=wish.is_video, world=wish.world
    )
    found: dict[str, float] = {}
    shown: tuple[CandidateScene, ...]
    if wish.form == "score":
        shown = (_draw_shown(scene, rng),)
        found = elements(caption, shown[0].scene)
    else:
        drawn = [
            add_random_flaw(random_variation(scene, k, rng), rng, p_flaw=_P_FLAW)
            for k in (0, 1, 2, 3, 4, pick(rng, _DEPARTURES))
        ]
        drawn.append(pick(rng, drawn))
        rated = [(one, one.utility(caption)) for one in drawn]
        shown = _draw_pair(rated, rng, wants_tie=rng.random() < _P_TIE)
    options = tuple(
        _Option(one.medium(rng), one.utility(caption), one.utility(caption, ignoring=wish.blind))
        for one in shown
    )
    return _Draft(caption.text, (), options, found)


class _Edited(NamedTuple):
    """An image as an editor left it."""

    edit: Edit
    shown: CandidateScene

    @property
    def axes(self) -> tuple[float, float]:
        return self.edit.judged(self.shown.scene)

    def option(self, rng: np.random.Generator) -> _Option:
        return _Option(self.shown.medium(rng), self.utility(), self.utility())

    def utility(self) -> float:
        return edit_utility(*self.axes, 1 - self.shown.severity)


def _draft_editing(wish: _Wish, rng: np.random.Generator) -> _Draft:
    """An image, an instruction, and one or two images as editors left them."""
    while True:
        scene = random_sized_scene(rng, is_video=False, world=wish.world)
        edit = random_edit(scene, rng)
        if edit.split() == wish.split:
            break

    def drawn(how: str) -> _Edited:
        return _Edited(edit, add_random_flaw(apply_edit(edit, how, rng), rng, p_flaw=_P_FLAW))

    if wish.form == "score":
        shown = (drawn(pick(rng, _EDITS)),)
        success, kept = shown[0].axes
        found = {"success": success, "kept": kept}
    else:
        many = [drawn(how) for how in _EDITS]
        many.append(pick(rng, many))
        rated = [(one, one.utility()) for one in many]
        shown, found = _draw_pair(rated, rng, wants_tie=rng.random() < _P_TIE), {}
    options = tuple(one.option(rng) for one in shown)
    return _Draft(edit.text, (CandidateScene(scene).medium(rng),), options, found)


def random_style(rng: np.random.Generator) -> Style:
    """A style of answer, true and false ones about equally often."""
    at = float(rng.random()) * sum(_STYLES.values())
    for style, share in _STYLES.items():
        at -= share
        if at < 0:
            return style
    return "right"


def _draw_rivals(question: Question, rng: np.random.Generator, split: Split) -> tuple[Reply, Reply]:
    """Two different replies, in a few cases equally good."""
    wants_tie = rng.random() < _P_TIE
    while True:
        one, two = (random_reply(question, random_style(rng), rng, split=split) for _ in range(2))
        is_tie = _is_tie(one.utility(question), two.utility(question))
        if one.text != two.text and is_tie == wants_tie:
            return one, two


def random_scene_with_question(
    rng: np.random.Generator, *, split: Split, is_video: bool, world: World = FULL_WORLD
) -> tuple[Scene, Question]:
    """A scene whose description belongs to the split, and a question about it."""
    while True:
        scene = random_sized_scene(rng, is_video=is_video, world=world)
        if split_of(describe(scene)) == split:
            return scene, random_question(scene, rng)


def _draft_understanding(wish: _Wish, rng: np.random.Generator) -> _Draft:
    """An image or a video, a question about it, and one or two answers."""
    scene, question = random_scene_with_question(
        rng, split=wish.split, is_video=wish.is_video, world=wish.world
    )
    replies: tuple[Reply, ...]
    if wish.form == "score":
        replies = (random_reply(question, random_style(rng), rng, split=wish.split),)
    else:
        replies = _draw_rivals(question, rng, wish.split)
    options = tuple(
        _Option(one.text, one.utility(question), one.utility(question, ignoring=wish.blind))
        for one in replies
    )
    return _Draft(question.text, (CandidateScene(scene).medium(rng),), options, {})


_DRAFTS: dict[Task, Callable[[_Wish, np.random.Generator], _Draft]] = {
    **dict.fromkeys(GENERATION_TASKS, _draft_generation),
    Task.IMAGE_UNDERSTANDING: _draft_understanding,
    Task.VIDEO_UNDERSTANDING: _draft_understanding,
    Task.IMAGE_EDITING: _draft_editing,
}


def _label(draft: _Draft, labeller: Annotator, rng: np.random.Generator) -> Target:
    felt = [
        labeller.perceived(one.seen, one.candidate if isinstance(one.candidate, str) else "")
        for one in draft.options
    ]
    if len(felt) == 1:
        return Target(score=labeller.score(felt[0], rng), scale=UNIT, aspects=draft.elements)
    true = {"first": draft.options[0].utility, "second": draft.options[1].utility}
    return Target(winner=labeller.prefer(felt[0], felt[1], rng), aspects=true)


def check_known(task: str, split: str, form: str = "score", tasks: Sequence[Task] = TASKS) -> None:
    """See that the microworld has such a task, split and form.

    Raises:
        ConfigError: It has not; names what there is.
    """
    asked = (("task", task, tasks), ("form", form, ("score", "compare")), ("split", split, SPLITS))
    for what, given, known in asked:
        if given not in known:
            raise ConfigError(
                f"microworld has no {what} {str(given)!r}; there are {', '.join(known)}"
            )


def make_example(
    task: Task,
    form: Form,
    *,
    split: Split,
    seed: int,
    index: int,
    annotator: Annotator = NOISELESS,
    world: World = FULL_WORLD,
) -> Example:
    """One judged item.

    Test captions, of generation the prompt, of understanding `describe` of the scene and of
    editing the instruction with it, never occur in training. About 8 % of comparisons are ties.

    Args:
        task: Image or video, generation or understanding, or image editing.
        form: ``score`` for one candidate, ``compare`` for two.
        split: ``train`` or ``test``.
        seed: Names a series of items.
        index: Place in the series; no item depends on another.
        annotator: Who labels. Test items are labelled with the exact utilities whoever is named.
            The candidates do not depend on it.
        world: What to draw from: ``FULL_WORLD``, ``HARD_WORLD`` (three things) or one of
            ``HALF_WORLDS``.

    Returns:
        The sample with media in memory. Of a score, ``target.score`` in [0, 1] and, for
        generation, ``target.aspects`` with 1.0 or 0.0 for each fact the caption asserts, for
        editing ``success`` and ``kept`` (see `Edit.judged`); of a
        comparison, ``target.winner`` and the true utilities as ``target.aspects``.

    Raises:
        ConfigError: The task, form or split is not one of these.
    """
    check_known(task, split, form, JUDGED_TASKS)
    name = f"{task}-{form}-{split}-{seed}-{index}"
    name += f"-{world.name}" if world.name else ""
    labeller = annotator if split == "train" else NOISELESS
    wish = _Wish(task in VIDEO_TASKS, form, split, labeller.blind, world)
    draft_item = _DRAFTS[Task(task)]
    draft = draft_item(wish, keyed_rng(name))
    sample = Sample(
        task=Task(task),
        prompt=draft.prompt,
        candidates=tuple(one.candidate for one in draft.options),
        context=draft.context,
        id=name,
    )
    return Example.of(sample, _label(draft, labeller, keyed_rng(name, "label")), source=SOURCE)


class CandidatePool(NamedTuple):
    """Candidates for one prompt, and what each is worth."""

    prompt: str
    context: tuple[Image | Video, ...]
    """What the prompt asks about; empty for generation."""
    candidates: tuple[Candidate, ...]
    utilities: tuple[float, ...]
    """True worth of each candidate, 0 to 1, see `utilities`."""


def candidate_pool(task: Task, *, n: int, split: Split, seed: int, index: int) -> CandidatePool:
    """Candidates to choose from, drawn one by one as those of an item to score.

    A longer pool begins with the shorter one of the same series and place. The captions of items
    and pools belong to the same splits.

    Args:
        task: Image or video, generation or understanding.
        n: Number of candidates, >= 1; two may be alike.
        split: ``train`` or ``test``.
        seed: Names a series of pools.
        index: Place in the series; no pool depends on another.

    Raises:
        ConfigError: The task or split is not one of these, or n is below 1.
    """
    check_known(task, split)
    if n < 1:
        raise ConfigError(f"a pool has at least one candidate, not {n}")
    rng = keyed_rng(f"{task}-pool-{split}-{seed}-{index}")
    is_video = task in VIDEO_TASKS
    candidates: list[Candidate] = []
    utilities: list[float] = []
    if task in GENERATION_TASKS:
        scene, caption = random_scene_with_caption(rng, split=split, is_video=is_video)
        for _ in range(n):
            shown = _draw_shown(scene, rng)
            candidates.append(shown.medium(rng))
            utilities.append(shown.utility(caption))
        return CandidatePool(caption.text, (), tuple(candidates), tuple(utilities))
    scene, question = random_scene_with_question(rng, split=split, is_video=is_video)
    context = (CandidateScene(scene).medium(rng),)
    for _ in range(n):
        reply = random_reply(question, random_style(rng), rng, split=split)
        candidates.append(reply.text)
        utilities.append(reply.utility(question))
    return CandidatePool(question.text, context, tuple(candidates), tuple(utilities))
