"""Prompts for policies, and the oracle's score of their candidates.

A prompt depends on its arguments alone. Pixels are read by the oracle, answers by the grammar of
their question; neither knows which policy made them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_reward.core.samples import Candidate, Image, Task, Video

from . import oracle
from .candidate_scenes import CandidateScene, keyed_rng, random_scene_with_caption
from .captions import Caption, Split
from .captions import alignment as caption_alignment
from .items import GENERATION_TASKS, VIDEO_TASKS, check_known, random_scene_with_question
from .questions import EVASIONS, FILLERS, Question, Reply


@dataclass(frozen=True)
class PolicyPrompt:
    """A prompt for a policy, with the caption or question that its candidates are scored by."""

    id: str
    task: Task
    prompt: str
    context: tuple[Image | Video, ...]
    """Media that the prompt is about; empty for generation."""
    target: Caption | Question

    def oracle_score(self, candidate: Candidate) -> float | None:
        """Score a candidate in [0, 1]; None if it cannot be read.

        The score of an image or a video is the share of the caption's facts that hold, that of an
        answer its utility. The oracle abstains from doubtful pixels, and an answer must be one
        that the question allows.

        Raises:
            MediaError: The pixels are not of the microworld's size.
        """
        if isinstance(self.target, Question):
            reply = read_reply(self.target, str(candidate))
            return reply.utility(self.target) if reply else None
        pixels: Any = candidate.source if isinstance(candidate, Image | Video) else None
        scene = oracle.read(np.asarray(pixels))
        return caption_alignment(self.target, scene) if scene else None


def policy_prompt(task: Task, *, split: Split, seed: int, index: int) -> PolicyPrompt:
    """Make a prompt of the microworld, with media in memory.

    Args:
        task: Image or video, generation or understanding.
        split: ``train`` or ``test``, as of examples.
        seed: Seed of a series of prompts.
        index: Index in the series; no prompt depends on another.

    Raises:
        ConfigError: The task or split is not one of these.
    """
    check_known(task, split)
    name = f"{task}-brief-{split}-{seed}-{index}"
    rng = keyed_rng(name)
    is_video = task in VIDEO_TASKS
    if task in GENERATION_TASKS:
        _, caption = random_scene_with_caption(rng, split=split, is_video=is_video)
        return PolicyPrompt(name, Task(task), caption.text, (), caption)
    scene, question = random_scene_with_question(rng, split=split, is_video=is_video)
    context = (CandidateScene(scene).render(rng),)
    return PolicyPrompt(name, Task(task), question.text, context, question)


def read_reply(question: Question, text: str) -> Reply | None:
    """Parse an answer into values of the question's parts; None if it does not answer it.

    >>> size = Question("what size is it?", ("small",), (("small", "large"),), ("size",))
    >>> read_reply(size, "i can not tell").utility(size)
    0.2
    >>> read_reply(size, "well i think that the answer is large").parts
    ('large',)
    >>> read_reply(size, "red") is None
    True
    """
    text = " ".join(text.split())
    if text in EVASIONS:
        return Reply(text, ())
    parts = zip(question.truth, question.choices, strict=True)
    # The longest first, since "red star" begins with "red".
    values = [sorted({true, *others}, key=len, reverse=True) for true, others in parts]
    groups = [f"({'|'.join(map(re.escape, each))})" for each in values]
    plain = re.escape(question.frame).replace(r"\{\}", "{}").format(*groups)
    if match := re.fullmatch(plain, text):
        return Reply(text, match.groups())
    for filler in FILLERS:
        padded = re.escape(filler).replace(r"\{\}", plain)
        if match := re.fullmatch(padded, text):
            return Reply(text, match.groups(), is_padded=True)
    return None
