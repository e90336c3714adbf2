"""Prompts for policies, and what the oracle makes of what a policy answers or draws.

A brief is a function of its arguments and of nothing else. Pixels are read by the oracle, answers
by the grammar of their question; neither knows who made them.
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
    """What a policy is asked, and what would be right."""

    id: str
    task: Task
    prompt: str
    context: tuple[Image | Video, ...]
    """What the prompt asks about; empty for generation."""
    wanted: Caption | Question

    def worth(self, candidate: Candidate) -> float | None:
        """What the oracle makes of a candidate, in [0, 1]; None where it cannot be read.

        Of an image or a video it is the share of the caption's facts that hold, of an answer its
        utility. The oracle abstains from pixels in doubt, and an answer must say something that
        the question allows.

        Raises:
            MediaError: Pixels of another size than the microworld's.
        """
        if isinstance(self.wanted, Question):
            reply = read_reply(self.wanted, str(candidate))
            return reply.utility(self.wanted) if reply else None
        source: Any = candidate.source if isinstance(candidate, Image | Video) else None
        scene = oracle.read(np.asarray(source))
        return caption_alignment(self.wanted, scene) if scene else None


def policy_prompt(task: Task, *, split: Split, seed: int, index: int) -> PolicyPrompt:
    """A prompt of the microworld, with media in memory.

    Args:
        task: Image or video, generation or understanding.
        split: ``train`` or ``test``, as of items.
        seed: Names a series of briefs.
        index: Place in the series; no brief depends on another.

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
    return PolicyPrompt(
        name, Task(task), question.text, (CandidateScene(scene).medium(rng),), question
    )


def read_reply(question: Question, text: str) -> Reply | None:
    """An answer as values of the question's parts, or None where it is no answer to it.

    >>> asked = Question("what size is it?", ("small",), (("small", "large"),), ("size",))
    >>> read_reply(asked, "i can not tell").utility(asked)
    0.2
    >>> read_reply(asked, "well i think that the answer is large").parts
    ('large',)
    >>> read_reply(asked, "red") is None
    True
    """
    told = " ".join(text.split())
    if told in EVASIONS:
        return Reply(told, ())
    known = zip(question.truth, question.choices, strict=True)
    # The longest first, since "red star" begins "red".
    values = [sorted({true, *others}, key=len, reverse=True) for true, others in known]
    parts = [f"({'|'.join(map(re.escape, each))})" for each in values]
    plain = re.escape(question.frame).replace(r"\{\}", "{}").format(*parts)
    if found := re.fullmatch(plain, told):
        return Reply(told, found.groups())
    for filler in FILLERS:
        padded = re.escape(filler).replace(r"\{\}", plain)
        if found := re.fullmatch(padded, told):
            return Reply(told, found.groups(), is_padded=True)
    return None
