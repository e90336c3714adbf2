"""Placeholder examples for dry runs without data: grey media, and prompts of a usual length."""

from __future__ import annotations

import numpy as np

from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Candidate, Example, Form, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Scale


_PROMPT = (
    "A photograph of a small wooden boat on a calm lake at dawn, with mountains behind it and a "
    "red lantern at its bow."
)
_ANSWERS = ("The lantern at the bow is red.", "There is no lantern in it.")
_SIDE_PX = 64
_VIDEO_FRAMES = 8


def placeholder_image() -> Image:
    """A grey image of 64 x 64 pixels."""
    return Image(np.full((_SIDE_PX, _SIDE_PX, 3), 128, np.uint8), layout="HWC")


def placeholder_video() -> Video:
    """A grey video of 8 frames of 64 x 64 pixels."""
    pixels = np.full((_VIDEO_FRAMES, _SIDE_PX, _SIDE_PX, 3), 128, np.uint8)
    return Video(pixels, layout="THWC", fps=8.0)


def placeholder_context(task: Task) -> tuple[Image | Video, ...]:
    """The media that a question of the task is about; empty for generation."""
    match task:
        case Task.IMAGE_UNDERSTANDING | Task.IMAGE_EDITING:
            return (placeholder_image(),)
        case Task.VIDEO_UNDERSTANDING:
            return (placeholder_video(),)
        case _:
            return ()


def placeholder_answers() -> tuple[str, str]:
    """A right and a wrong answer to a question about an image or a video."""
    return _ANSWERS


def placeholder_examples(family: str) -> dict[str, Example]:
    """One example of every task and form that a family asks, by ``<task>.<form>``."""
    made: dict[str, Example] = {}
    forms: tuple[Form, Form] = ("score", "compare")
    for task in Task:
        for form in forms:
            try:
                template = prompts.template(family, task, form)
            except ConfigError:
                continue
            sample = Sample(task, _PROMPT, _candidates(task, form), placeholder_context(task))
            made[f"{task.value}.{form}"] = Example.of(sample, _target(template))
    return made


def _candidates(task: Task, form: Form) -> tuple[Candidate, ...]:
    n = 1 if form == "score" else 2
    if task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING):
        return _ANSWERS[:n]
    make = placeholder_video if task is Task.VIDEO_GENERATION else placeholder_image
    return tuple(make() for _ in range(n))


def _target(template: prompts.Template) -> Target:
    if template.form == "compare":
        return Target(winner="first", aspects={aspect.name: 1.0 for aspect in template.aspects})
    aspects = {aspect.name: aspect.scale.low or 0.0 for aspect in template.aspects}
    return Target(score=0.5, scale=Scale(0.0, 1.0), aspects=aspects)
