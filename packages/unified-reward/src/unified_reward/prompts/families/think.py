"""Family ``think``: free reasoning in ``<think>``, then the verdict alone in ``<answer>``."""

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


FAMILY = Family("think", uses_think_tags=True, max_new_tokens=4096)


def _template(task: Task, form: Form) -> Template:
    reason = f"{statement(task, form)}\nThink it through between <think> and </think>. Then put "
    if form == "compare":
        prompt = f"{reason}your verdict between <answer> and </answer>: {verdict_options(task)}"
        phrases = tuple(sentence.rstrip(".") for sentence in verdict_sentences(task))
        return Template(
            FAMILY, task, form, prompt, opening="<answer>", closing="</answer>", phrases=phrases
        )
    prompt = f"{reason}a score from {SCALES[task]}: <answer>Final Score: <number></answer>"
    opening = "<answer>Final Score: "
    return Template(
        FAMILY, task, form, prompt, scale=SCALES[task], opening=opening, closing="</answer>"
    )


TEMPLATES = tuple(_template(task, form) for task, form in CELLS)
