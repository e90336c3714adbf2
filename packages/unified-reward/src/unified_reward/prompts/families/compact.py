"""Families of few tokens for tiny judges: ``compact`` gives the verdict alone.

``compact-think`` compares only, and reasons first.
"""

from __future__ import annotations

from unified_reward.core.samples import Form, Task
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import SCALES


FAMILY = Family("compact", verdict_first=True, max_new_tokens=8)
THINK = Family("compact-think", uses_think_tags=True, max_new_tokens=128)
_VERDICTS = ("first", "tie", "second")
_PROMPTS: dict[tuple[Task, Form], str] = {
    (Task.IMAGE_GENERATION, "score"): "⟪media⟫rate picture: ⟪prompt⟫",
    (Task.IMAGE_GENERATION, "compare"): "⟪media⟫better picture: ⟪prompt⟫",
    (Task.IMAGE_UNDERSTANDING, "score"): "⟪media⟫rate answer: ⟪prompt⟫ 1: ⟪first⟫",
    (Task.IMAGE_UNDERSTANDING, "compare"): "⟪media⟫better answer: ⟪prompt⟫ 1: ⟪first⟫ 2: ⟪second⟫",
    (Task.VIDEO_GENERATION, "score"): "⟪media⟫rate clip: ⟪prompt⟫",
    (Task.VIDEO_GENERATION, "compare"): "⟪media⟫better clip: ⟪prompt⟫",
    (Task.VIDEO_UNDERSTANDING, "score"): "⟪media⟫rate clip answer: ⟪prompt⟫ 1: ⟪first⟫",
    (
        Task.VIDEO_UNDERSTANDING,
        "compare",
    ): "⟪media⟫better clip answer: ⟪prompt⟫ 1: ⟪first⟫ 2: ⟪second⟫",
    (Task.IMAGE_EDITING, "score"): "⟪media⟫rate change: ⟪prompt⟫",
    (Task.IMAGE_EDITING, "compare"): "⟪media⟫better change: ⟪prompt⟫",
}


def _template(task: Task, form: Form) -> Template:
    prompt = _PROMPTS[task, form]
    if form == "compare":
        return Template(FAMILY, task, form, prompt, phrases=_VERDICTS)
    return Template(FAMILY, task, form, prompt, scale=SCALES[task])


def _thinking(task: Task) -> Template:
    prompt = f"{_PROMPTS[task, 'compare']} think"
    return Template(
        THINK,
        task,
        "compare",
        prompt,
        opening="<answer>",
        closing="</answer>",
        phrases=_VERDICTS,
    )


TEMPLATES = (
    *(_template(task, form) for task, form in _PROMPTS),
    *(_thinking(task) for task, form in _PROMPTS if form == "compare"),
)
