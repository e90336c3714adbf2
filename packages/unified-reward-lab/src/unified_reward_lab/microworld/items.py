"""Labelled examples with their true utilities: candidates to score or compare, for five tasks.

An example, or a pool of candidates, depends on its arguments alone. Nothing is written to files.
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
    random_scene,
    random_scene_with_caption,
    random_variation,
)
from .captions import Caption, Split, describe, elements, split_of
from .edits import Edit, EditOutcome, apply_edit, edit_utility, random_edit
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
"""Tasks of examples; pools, prompts and lessons exist for ``TASKS`` alone."""

_P_TIE = 0.08
_P_FLAW = 0.35
_LARGE_FLAW = 0.65
"""Severity in the middle of its range, above which words call a flaw large."""
_GAP_EDGES = (0.12, 0.25, 0.45)
_N_CHANGES = (0, 0, 0, 1, 1, 2, 2, 3, 3, 4)
_STYLES: dict[Style, float] = {
    "right": 0.3,
    "wrong": 0.27,
    "partly": 0.2,
    "padded right": 0.1,
    "padded wrong": 0.05,
    "evasive": 0.08,
}

_EDITS: tuple[EditOutcome, ...] = (
    "right",
    "right",
    "unchanged",
    "another edit",
    "one mistake",
    "one mistake",
    "two mistakes",
)

_T = TypeVar("_T")


class _Option(NamedTuple):
    """A candidate with its utility, true and as seen by an annotator who may be blind."""

    candidate: Candidate
    utility: float
    seen: float
    facts: str = ""
    """Facts that hold or not, in words, of a generated candidate."""


def _is_tie(first: float, second: float) -> bool:
    return abs(first - second) <= TIE_MARGIN + 1e-9


def _random_pair(
    options: Sequence[_T],
    utility: Callable[[_T], float],
    rng: np.random.Generator,
    *,
    wants_tie: bool,
) -> tuple[_T, _T]:
    """Two of the options in random order: a tie if wanted, else with any gap in utility.

    Small, middling and large gaps are equally likely, as far as there are any.
    """
    bins: dict[int, list[tuple[_T, _T]]] = {}
    for a, b in combinations([(option, utility(option)) for option in options], 2):
        gap = abs(a[1] - b[1])
        size = -1 if _is_tie(a[1], b[1]) else sum(gap > edge for edge in _GAP_EDGES)
        bins.setdefault(size, []).append((a[0], b[0]))
    sizes = sorted(size for size in bins if size >= 0)
    if not sizes or (wants_tie and -1 in bins):
        sizes = [-1]
    first, second = pick(rng, bins[pick(rng, sizes)])
    return (first, second) if rng.random() < 0.5 else (second, first)


class _Spec(NamedTuple):
    """Requested kind of example."""

    is_video: bool
    form: Form
    split: Split
    blind: str
    """Kind of fact that the annotator does not see."""
    world: World


class _Draft(NamedTuple):
    """An example without its label."""

    prompt: str
    context: tuple[Image | Video, ...]
    options: tuple[_Option, ...]
    elements: dict[str, float]


def _random_candidate(
    scene: Scene, rng: np.random.Generator, n_changes: int | None = None
) -> CandidateScene:
    """The scene or a variation of it, sometimes with a flaw."""
    if n_changes is None:
        n_changes = pick(rng, _N_CHANGES)
    return add_random_flaw(random_variation(scene, n_changes, rng), rng, p_flaw=_P_FLAW)


def _draft_generation(spec: _Spec, rng: np.random.Generator) -> _Draft:
    """A caption, and one or two images or videos of it or of something else."""
    scene, caption = random_scene_with_caption(
        rng, split=spec.split, is_video=spec.is_video, world=spec.world
    )
    chosen: tuple[CandidateScene, ...]
    truths: dict[str, float] = {}
    if spec.form == "score":
        chosen = (_random_candidate(scene, rng),)
        truths = elements(caption, chosen[0].scene)
    else:
        n_changes = (0, 1, 2, 3, 4, pick(rng, _N_CHANGES))
        options = [_random_candidate(scene, rng, n) for n in n_changes]
        options.append(pick(rng, options))
        wants_tie = rng.random() < _P_TIE
        chosen = _random_pair(options, lambda s: s.utility(caption), rng, wants_tie=wants_tie)
    options = tuple(
        _Option(
            s.render(rng),
            s.utility(caption),
            s.utility(caption, ignoring=spec.blind),
            _facts_in_words(caption, s),
        )
        for s in chosen
    )
    return _Draft(caption.text, (), options, truths)


def _facts_in_words(caption: Caption, candidate: CandidateScene) -> str:
    """Each fact of the caption with yes or no, then the flaw.

    >>> from unified_reward_lab.microworld import Mention, Thing
    >>> cross = Scene((Thing("red", "cross", "small", "top left"),))
    >>> caption = Caption("a red star", (Mention("red", "star"),))
    >>> _facts_in_words(caption, CandidateScene(cross, "blur", 0.9))
    'red star no, one object yes, large flaw'
    """
    answers = [
        f"{name} {'yes' if holds else 'no'}"
        for name, holds in elements(caption, candidate.scene).items()
    ]
    size = "large" if candidate.severity > _LARGE_FLAW else "small"
    return ", ".join([*answers, f"{size} flaw" if candidate.flaw else "clean"])


class _EditedImage(NamedTuple):
    """An image as an editor returned it."""

    edit: Edit
    result: CandidateScene

    def axes(self) -> tuple[float, float]:
        return self.edit.evaluate(self.result.scene)

    def utility(self) -> float:
        return edit_utility(*self.axes(), 1 - self.result.severity)


def _draft_editing(spec: _Spec, rng: np.random.Generator) -> _Draft:
    """An image, an instruction, and one or two edited images."""
    while True:
        scene = random_scene(rng, is_video=False, world=spec.world)
        edit = random_edit(scene, rng)
        if edit.split() == spec.split:
            break

    def attempt(outcome: EditOutcome) -> _EditedImage:
        edited = apply_edit(edit, outcome, rng)
        return _EditedImage(edit, add_random_flaw(edited, rng, p_flaw=_P_FLAW))

    chosen: tuple[_EditedImage, ...]
    axes: dict[str, float] = {}
    if spec.form == "score":
        chosen = (attempt(pick(rng, _EDITS)),)
        axes = dict(zip(("success", "kept"), chosen[0].axes(), strict=True))
    else:
        attempts = [attempt(outcome) for outcome in _EDITS]
        attempts.append(pick(rng, attempts))
        wants_tie = rng.random() < _P_TIE
        chosen = _random_pair(attempts, _EditedImage.utility, rng, wants_tie=wants_tie)
    options = tuple(_Option(e.result.render(rng), e.utility(), e.utility()) for e in chosen)
    return _Draft(edit.text, (CandidateScene(scene).render(rng),), options, axes)


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style of reply, right and wrong ones about equally often."""
    at = float(rng.random()) * sum(_STYLES.values())
    for style, share in _STYLES.items():
        at -= share
        if at < 0:
            return style
    return "right"


def _random_replies(
    question: Question, rng: np.random.Generator, split: Split
) -> tuple[Reply, Reply]:
    """Two different replies, in a few cases equally good."""
    wants_tie = rng.random() < _P_TIE
    while True:
        a, b = (random_reply(question, random_style(rng), rng, split=split) for _ in range(2))
        is_tie = _is_tie(a.utility(question), b.utility(question))
        if a.text != b.text and is_tie == wants_tie:
            return a, b


def random_scene_with_question(
    rng: np.random.Generator, *, split: Split, is_video: bool, world: World = FULL_WORLD
) -> tuple[Scene, Question]:
    """Draw a scene whose description belongs to the split, and a question about it."""
    while True:
        scene = random_scene(rng, is_video=is_video, world=world)
        if split_of(describe(scene)) == split:
            return scene, random_question(scene, rng)


def _draft_understanding(spec: _Spec, rng: np.random.Generator) -> _Draft:
    """An image or a video, a question about it, and one or two answers."""
    scene, question = random_scene_with_question(
        rng, split=spec.split, is_video=spec.is_video, world=spec.world
    )
    replies: tuple[Reply, ...]
    if spec.form == "score":
        replies = (random_reply(question, random_style(rng), rng, split=spec.split),)
    else:
        replies = _random_replies(question, rng, spec.split)
    options = tuple(
        _Option(reply.text, reply.utility(question), reply.utility(question, ignoring=spec.blind))
        for reply in replies
    )
    return _Draft(question.text, (CandidateScene(scene).render(rng),), options, {})


_DRAFTS: dict[Task, Callable[[_Spec, np.random.Generator], _Draft]] = {
    **dict.fromkeys(GENERATION_TASKS, _draft_generation),
    Task.IMAGE_UNDERSTANDING: _draft_understanding,
    Task.VIDEO_UNDERSTANDING: _draft_understanding,
    Task.IMAGE_EDITING: _draft_editing,
}


def _label(draft: _Draft, labeller: Annotator, rng: np.random.Generator) -> Target:
    perceived = [
        labeller.perceived(each.seen, each.candidate if isinstance(each.candidate, str) else "")
        for each in draft.options
    ]
    if len(perceived) == 1:
        return Target(score=labeller.score(perceived[0], rng), scale=UNIT, aspects=draft.elements)
    return Target(winner=labeller.prefer(perceived[0], perceived[1], rng))


def check_known(task: str, split: str, form: str = "score", tasks: Sequence[Task] = TASKS) -> None:
    """Check that the microworld has such a task, split and form.

    Raises:
        ConfigError: It does not; the message lists what there is.
    """
    given_known = (
        ("task", task, tasks),
        ("form", form, ("score", "compare")),
        ("split", split, SPLITS),
    )
    for name, given, known in given_known:
        if given not in known:
            raise ConfigError(
                f"microworld has no {name} {str(given)!r}; there are {', '.join(known)}"
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
    """Make one labelled example.

    Test captions, of generation the prompt, of understanding `describe` of the scene and of
    editing the instruction with it, never occur in training. About 8 % of comparisons are ties.

    Args:
        task: Image or video, generation or understanding, or image editing.
        form: ``score`` for one candidate, ``compare`` for two.
        split: ``train`` or ``test``.
        seed: Seed of a series of examples.
        index: Index in the series; no example depends on another.
        annotator: Annotator of training examples; test examples always have exact labels. The
            candidates do not depend on it.
        world: ``FULL_WORLD``, ``HARD_WORLD`` (three things) or one of ``HALF_WORLDS``.

    Returns:
        The sample with media in memory. Of a score, ``target.score`` in [0, 1] and, for
        generation, ``target.aspects`` with 1.0 or 0.0 for each fact the caption asserts, for
        editing ``success`` and ``kept`` (see `Edit.evaluate`); of a
        comparison, ``target.winner``, and for generation the tags ``facts_first`` and
        ``facts_second``. `true_utilities` has the exact utilities.

    Raises:
        ConfigError: The task, form or split is not one of these.
    """
    check_known(task, split, form, JUDGED_TASKS)
    name = "-".join(map(str, (task, form, split, seed, index, world.name))).removesuffix("-")
    labeller = annotator if split == "train" else NOISELESS
    spec = _Spec(task in VIDEO_TASKS, form, split, labeller.blind, world)
    draft = _DRAFTS[Task(task)](spec, keyed_rng(name))
    sample = Sample(
        task=Task(task),
        prompt=draft.prompt,
        candidates=tuple(option.candidate for option in draft.options),
        context=draft.context,
        id=name,
    )
    target = _label(draft, labeller, keyed_rng(name, "label"))
    utilities = [str(float(option.utility)) for option in draft.options]
    names = ("utility_first", "utility_second") if form == "compare" else ("utilities",)
    tags: dict[str, str] = dict(zip(names, utilities, strict=True))
    if form == "compare" and all(option.facts for option in draft.options):
        facts = (option.facts for option in draft.options)
        tags |= zip(("facts_first", "facts_second"), facts, strict=True)
    return Example.of(sample, target, source=SOURCE, tags=tags)


def true_utilities(example: Example) -> tuple[float, ...]:
    """Return the true utility of each candidate of an example or a pool, 0 to 1.

    >>> true_utilities(Example(Task.IMAGE_GENERATION, "a red star", tags={"utilities": "1.0 0.25"}))
    (1.0, 0.25)
    """
    tags = example.tags
    if "utility_first" in tags:
        return float(tags["utility_first"]), float(tags["utility_second"])
    return tuple(map(float, tags["utilities"].split()))


def utility_gap(example: Example) -> float:
    """Return the distance between the true utilities of a comparison, 0 to 1."""
    first, second = true_utilities(example)
    return abs(first - second)


def candidate_pool(task: Task, *, n: int, split: Split, seed: int, index: int) -> Example:
    """Make candidates to choose from, each drawn like the candidate of an example to score.

    A longer pool begins with the shorter pool of the same seed and index. Captions of examples and
    pools belong to the same splits.

    Args:
        task: Image or video, generation or understanding.
        n: Number of candidates, >= 1; some may be equal.
        split: ``train`` or ``test``.
        seed: Seed of a series of pools.
        index: Index in the series; no pool depends on another.

    Returns:
        The prompt with its candidates, unlabelled; `true_utilities` has their utilities.

    Raises:
        ConfigError: The task or split is not one of these, or n is below 1.
    """
    check_known(task, split)
    if n < 1:
        raise ConfigError(f"a pool has at least one candidate, given n={n}")
    name = f"{task}-pool-{split}-{seed}-{index}"
    rng = keyed_rng(name)
    is_video = task in VIDEO_TASKS
    candidates: list[Candidate] = []
    utilities: list[float] = []
    context: tuple[Image | Video, ...] = ()
    if task in GENERATION_TASKS:
        scene, caption = random_scene_with_caption(rng, split=split, is_video=is_video)
        prompt = caption.text
        for _ in range(n):
            candidate = _random_candidate(scene, rng)
            candidates.append(candidate.render(rng))
            utilities.append(candidate.utility(caption))
    else:
        scene, question = random_scene_with_question(rng, split=split, is_video=is_video)
        prompt, context = question.text, (CandidateScene(scene).render(rng),)
        for _ in range(n):
            reply = random_reply(question, random_style(rng), rng, split=split)
            candidates.append(reply.text)
            utilities.append(reply.utility(question))
    tags = {"utilities": " ".join(map(str, utilities))}
    return Example(
        Task(task), prompt, tuple(candidates), context, id=name, source=SOURCE, tags=tags
    )
