"""Family ``aspects``: several aspects one by one, then an overall score where one is defined.

Generated and edited images have three aspects and no overall score, generated videos the five of
VideoFeedback and a final score, as published. The aspects of answers and edits are this project's
own. A comparison states each aspect's share of the two candidates; its verdict is the mean share
(docs/departures.md).
"""

from __future__ import annotations

from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import CELLS, NOUNS, SCALES, statement


FAMILY = Family("aspects", max_new_tokens=512)
_FIVE, _FOUR, _SHARE = Scale(1.0, 5.0), Scale(1.0, 4.0), Scale(0.0, 1.0)
_EDITED = ("success", "preservation", "naturalness")
_ANSWER = tuple(
    Aspect(name, _FIVE, f"{name.capitalize()} Score (1-5)")
    for name in ("correctness", "completeness", "clarity")
)
_SCORED = {
    Task.IMAGE_GENERATION: tuple(
        Aspect(name, _FIVE, f"{name.capitalize()} Score (1-5)")
        for name in ("alignment", "coherence", "style")
    ),
    Task.VIDEO_GENERATION: tuple(
        Aspect(name, _FOUR, name)
        for name in (
            "visual quality",
            "temporal consistency",
            "dynamic degree",
            "text-to-video alignment",
            "factual consistency",
        )
    ),
    Task.IMAGE_UNDERSTANDING: _ANSWER,
    Task.VIDEO_UNDERSTANDING: _ANSWER,
    Task.IMAGE_EDITING: tuple(
        Aspect(name, Scale(0.0, 25.0), f"{name.capitalize()} Score (0-25)") for name in _EDITED
    ),
}
_COMPARED = {
    Task.IMAGE_GENERATION: ("alignment", "coherence", "style"),
    Task.VIDEO_GENERATION: ("alignment", "coherence", "style"),
    Task.IMAGE_UNDERSTANDING: ("correctness", "completeness", "clarity"),
    Task.VIDEO_UNDERSTANDING: ("correctness", "completeness", "clarity"),
    Task.IMAGE_EDITING: _EDITED,
}


def _template(task: Task, form: Form) -> Template:
    if form == "compare":
        aspects = tuple(
            Aspect(name, _SHARE, f"{name.capitalize()} Score") for name in _COMPARED[task]
        )
        noun = NOUNS[task].capitalize()
        blocks = "\n".join(
            f"{one.label}:\n {noun} 1: <share>\n {noun} 2: <share>" for one in aspects
        )
        prompt = (
            f"{statement(task, form)}\nShare one point between the two for each aspect, more to "
            f"the better one, in this form:\n{blocks}"
        )
        return Template(FAMILY, task, form, prompt, aspects=aspects)
    aspects = _SCORED[task]
    lines = "\n".join(f"{one.label}: <{one.scale.low:g}-{one.scale.high:g}>" for one in aspects)
    prompt = f"{statement(task, form)}\nScore each aspect on a line of its own:\n{lines}"
    if task in (Task.IMAGE_GENERATION, Task.IMAGE_EDITING):
        return Template(FAMILY, task, form, prompt, aspects=aspects)
    prompt += f"\nFinal Score: <{SCALES[task]}>"
    return Template(
        FAMILY,
        task,
        form,
        prompt,
        aspects=aspects,
        scale=SCALES[task],
        opening="Final Score: ",
    )


TEMPLATES = tuple(_template(task, form) for task, form in CELLS)
