"""Family ``reasoned``: short checks first, then the verdict.

A scored image lists ``element (type): 0|1``, as the published judge does for generated images.
"""

from __future__ import annotations

from unified_reward.core.samples import Form, Task
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import (
    CELLS,
    NOUNS,
    SCALES,
    statement,
    verdict_options,
    verdict_sentences,
)


FAMILY = Family("reasoned", max_new_tokens=1024)
_CHECKS = {
    "image": "First list what the caption asks for, one a line as `name (kind): 1` where it is "
    "there and `name (kind): 0` where it is not.",
    "video": "First list what the caption asks for, one a line as `name (kind): 1` where it is "
    "there and `name (kind): 0` where it is not; motion counts too.",
    "edited image": "First list what the instruction asks for and what should have stayed, one a "
    "line as `name (kind): 1` where it is so and `name (kind): 0` where it is not.",
    "answer": "First list what the answer claims, one a line as `claim: 1` where it is true and "
    "`claim: 0` where it is not.",
}


def _template(task: Task, form: Form) -> Template:
    if form == "compare":
        prompt = (
            f"{statement(task, form)}\nFirst say in a few sentences where they differ. Then end "
            f"with a line `Overall Judgment:` followed by {verdict_options(task)}"
        )
        opening = "Overall Judgment: "
        return Template(
            FAMILY, task, form, prompt, opening=opening, phrases=verdict_sentences(task)
        )
    prompt = (
        f"{statement(task, form)}\n{_CHECKS[NOUNS[task]]} Then end with a line "
        f"`Final Score: <number>`, from {SCALES[task]}."
    )
    return Template(FAMILY, task, form, prompt, scale=SCALES[task], opening="Final Score: ")


TEMPLATES = tuple(_template(task, form) for task, form in CELLS)
