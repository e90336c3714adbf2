"""What is asked and how the answer is read: one row of ``TEMPLATES`` per family, task and form."""

from __future__ import annotations

from unified_reward.tasks import aspects, compact, native, reasoned, think
from unified_reward.tasks.template import Family, Template
from unified_reward.types import ConfigError, Form, Task


_MODULES = (aspects, compact, native, reasoned, think)
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}
TEMPLATES: dict[tuple[str, Task, Form], Template] = {
    (one.family.name, one.task, one.form): one for module in _MODULES for one in module.TEMPLATES
}


def family(name: str) -> Family:
    """Look up a family by name.

    Raises:
        ConfigError: There is none of that name; the message lists them.
    """
    if name not in FAMILIES:
        raise ConfigError(f"no family {name!r}; there are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def template(name: str, task: Task, form: Form) -> Template:
    """Look up the template of a family for a task and a form.

    Raises:
        ConfigError: No such family, or the family does not ask this.
    """
    found = TEMPLATES.get((family(name).name, task, form))
    if found is None:
        raise ConfigError(f"family {name!r} has no {form} template for {task.value}")
    return found


__all__ = ["FAMILIES", "TEMPLATES", "Family", "Template", "family", "template"]
