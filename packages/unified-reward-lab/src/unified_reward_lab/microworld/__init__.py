"""Synthetic images and videos whose captions, answers and utilities are known exactly."""

from . import oracle
from .annotators import NOISELESS, Annotator, annotator
from .captions import (
    Caption,
    Fact,
    Mention,
    Relation,
    Split,
    alignment,
    describe,
    elements,
    facts,
    random_caption,
    split_of,
)
from .corrupt import IMAGE_FLAWS, VIDEO_FLAWS, degrade, freeze, mutate, reverse
from .edits import EDIT_KINDS, Edit, apply_edit, edit_utility, random_edit
from .items import candidate_pool, make_example, true_utilities, utility_gap
from .lessons import LESSON_KINDS, Lesson, corpus, exam, lesson, vocabulary
from .prompts import PolicyPrompt, policy_prompt, read_reply
from .questions import Question, Reply, random_question, random_reply
from .render import render
from .scene import FULL_WORLD, HALF_WORLDS, HARD_WORLD, Scene, Thing, World, random_scene
from .utilities import answer_utility, generation_utility


__all__ = [
    "EDIT_KINDS",
    "FULL_WORLD",
    "HALF_WORLDS",
    "HARD_WORLD",
    "IMAGE_FLAWS",
    "LESSON_KINDS",
    "NOISELESS",
    "VIDEO_FLAWS",
    "Annotator",
    "Caption",
    "Edit",
    "Fact",
    "Lesson",
    "Mention",
    "PolicyPrompt",
    "Question",
    "Relation",
    "Reply",
    "Scene",
    "Split",
    "Thing",
    "World",
    "alignment",
    "annotator",
    "answer_utility",
    "apply_edit",
    "candidate_pool",
    "corpus",
    "degrade",
    "describe",
    "edit_utility",
    "elements",
    "exam",
    "facts",
    "freeze",
    "generation_utility",
    "lesson",
    "make_example",
    "mutate",
    "oracle",
    "policy_prompt",
    "random_caption",
    "random_edit",
    "random_question",
    "random_reply",
    "random_scene",
    "read_reply",
    "render",
    "reverse",
    "split_of",
    "true_utilities",
    "utility_gap",
    "vocabulary",
]
