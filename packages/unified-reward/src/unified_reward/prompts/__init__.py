"""Prompts and how their answers are read: one `Template` per family, task and form.

A family is one complete way of asking: built in, one of the published judges (once its wordings
are imported, see `official`), or added by another distribution through the entry-point group
``unified_reward.families``: a sequence of templates under the family's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, load_extension
from unified_reward.core.samples import Form, Task
from unified_reward.prompts import official
from unified_reward.prompts.families import aspects, compact, edit, flex, native, reasoned, think
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import CELLS


_MODULES = (aspects, compact, edit, flex, native, reasoned, think)
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (compact.THINK, edit.VALUES, *(module.FAMILY for module in _MODULES))
}
TEMPLATES: dict[tuple[str, Task, Form], Template] = {
    (template.family.name, template.task, template.form): template
    for module in _MODULES
    for template in module.TEMPLATES
}


def family(name: str) -> Family:
    """Look up a family by name.

    Raises:
        ConfigError: Unknown name (the message lists all families), the official wordings are not
            imported, or the distribution that adds the family is broken.
    """
    if name in official.FAMILIES:
        return official.family(name)
    if name in FAMILIES:
        return FAMILIES[name]
    if name in extensions("families"):
        return next(iter(_added_templates(name).values())).family
    names = sorted([*FAMILIES, *official.FAMILIES, *extensions("families")])
    raise ConfigError(f"no family {name!r}; there are {', '.join(names)}")


def template(name: str, task: Task, form: Form) -> Template:
    """Look up the template of a family for a task and a form.

    Raises:
        ConfigError: Unknown family, the family has no template for this task and form, or its
            official wording is not imported.
    """
    if name in official.FAMILIES:
        result = official.template(name, task, form)
    elif name in FAMILIES:
        result = TEMPLATES.get((name, task, form))
    else:
        result = _added_templates(family(name).name).get((task, form))
    if result is None:
        raise ConfigError(f"family {name!r} has no {form} template for {task.value}")
    return result


def templates(name: str) -> dict[tuple[Task, Form], Template]:
    """Templates of a family by task and form, without those whose wording is not imported.

    Raises:
        ConfigError: Unknown family.
    """
    family(name)
    found: dict[tuple[Task, Form], Template] = {}
    for task, form in CELLS:
        try:
            found[task, form] = template(name, task, form)
        except ConfigError:
            continue
    return found


@cache
def _added_templates(name: str) -> Mapping[tuple[Task, Form], Template]:
    """Load the templates of a family that another distribution adds."""
    loaded = load_extension("families", name)
    rows = cast("Sequence[object]", loaded) if isinstance(loaded, list | tuple) else ()
    templates = [row for row in rows if isinstance(row, Template) and row.family.name == name]
    if not rows or len(templates) < len(rows):
        raise ConfigError(
            f"the entry point {name!r} of unified_reward.families must be a list or tuple of "
            f"Template of a family named {name!r}, not {loaded!r:.80}"
        )
    return {(row.task, row.form): row for row in templates}


__all__ = ["FAMILIES", "TEMPLATES", "Family", "Template", "family", "template", "templates"]
