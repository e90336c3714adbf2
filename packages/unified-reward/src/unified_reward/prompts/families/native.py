"""Family ``native``: the verdict alone, in the published sentence or after ``Final Score:``."""

from __future__ import annotations

from unified_reward.core.samples import Form, Task
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import (
    CELLS,
    SCALES,
    statement,
    verdict_options,
    verdict_sentences,
)


FAMILY = Family("native", verdict_first=True, max_new_tokens=64)


def _template(task: Task, form: Form) -> Template:
    if form == "compare":
        reply = f"Reply with one sentence and nothing else: {verdict_options(task)}"
        prompt = f"{statement(task, form)}\n{reply}"
        return Template(FAMILY, task, form, prompt, phrases=verdict_sentences(task))
    prompt = (
        f"{statement(task, form)}\nReply with one line and nothing else, a number from "
        f"{SCALES[task]} in this form:\nFinal Score: <number>"
    )
    return Template(FAMILY, task, form, prompt, scale=SCALES[task], opening="Final Score: ")


TEMPLATES = tuple(_template(task, form) for task, form in CELLS)
