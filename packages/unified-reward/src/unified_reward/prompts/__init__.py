"""What is asked and how the answer is read: one row of ``TEMPLATES`` per family, task and form.

Families of the published judges stand beside them once their wordings are imported (`official`).
"""

from __future__ import annotations

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Form, Task
from unified_reward.prompts import official
from unified_reward.prompts.families import aspects, compact, edit, flex, native, reasoned, think
from unified_reward.prompts.template import Family, Template


_MODULES = (aspects, compact, edit, flex, native, reasoned, think)
FAMILIES: dict[str, Family] = {
    one.name: one for one in (edit.VALUES, *(module.FAMILY for module in _MODULES))
}
TEMPLATES: dict[tuple[str, Task, Form], Template] = {
    (one.family.name, one.task, one.form): one for module in _MODULES for one in module.TEMPLATES
}


def family(name: str) -> Family:
    """Look up a family by name.

    Raises:
        ConfigError: There is none of that name (the message lists them), or its official wordings
            are not imported.
    """
    if name in official.FAMILIES:
        return official.family(name)
    if name not in FAMILIES:
        known = sorted([*FAMILIES, *official.FAMILIES])
        raise ConfigError(f"no family {name!r}; there are {', '.join(known)}")
    return FAMILIES[name]


def template(name: str, task: Task, form: Form) -> Template:
    """Look up the template of a family for a task and a form.

    Raises:
        ConfigError: No such family, the family does not ask this, or its official wording is not
            imported.
    """
    if name in official.FAMILIES:
        found = official.template(name, task, form)
    else:
        found = TEMPLATES.get((family(name).name, task, form))
    if found is None:
        raise ConfigError(f"family {name!r} has no {form} template for {task.value}")
    return found


__all__ = ["FAMILIES", "TEMPLATES", "Family", "Template", "family", "template"]
