"""A small world of pictures and clips whose captions, answers and utilities are known exactly."""

from . import oracle
from .annotators import NOISELESS, Annotator, annotator
from .briefs import Brief, brief, read_reply
from .captions import (
    Caption,
    Fact,
    Mention,
    Relation,
    Split,
    alignment,
    describe,
    draw_caption,
    elements,
    facts,
    split_of,
)
from .corrupt import CLIP_FLAWS, PICTURE_FLAWS, degrade, freeze, mutate, reverse
from .edits import EDIT_KINDS, Edit, draw_edit, edit_utility, edited
from .items import Pool, item, pool
from .lessons import LESSON_KINDS, Lesson, corpus, exam, lesson, vocabulary
from .questions import Question, Reply, draw_question, draw_reply
from .render import render
from .scene import HALVES, HARD, WHOLE, Scene, Thing, World, draw_scene
from .utilities import answer_utility, generation_utility


__all__ = [
    "CLIP_FLAWS",
    "EDIT_KINDS",
    "HALVES",
    "HARD",
    "LESSON_KINDS",
    "NOISELESS",
    "PICTURE_FLAWS",
    "WHOLE",
    "Annotator",
    "Brief",
    "Caption",
    "Edit",
    "Fact",
    "Lesson",
    "Mention",
    "Pool",
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
    "brief",
    "corpus",
    "degrade",
    "describe",
    "draw_caption",
    "draw_edit",
    "draw_question",
    "draw_reply",
    "draw_scene",
    "edit_utility",
    "edited",
    "elements",
    "exam",
    "facts",
    "freeze",
    "generation_utility",
    "item",
    "lesson",
    "mutate",
    "oracle",
    "pool",
    "read_reply",
    "render",
    "reverse",
    "split_of",
    "vocabulary",
]
