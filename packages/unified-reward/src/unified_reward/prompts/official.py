"""Families of the published judges, in wordings imported from a user's own clone.

Their answers have the grammars of our own families, which keep the published ones. Images come
first, then the text. The placeholders that LLaVA scripts write for images are left to the chat
template of a converted checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale
from unified_reward.prompts import packs
from unified_reward.prompts.families import (
    aspects,
    critic,
    edit,
    editscore,
    flex,
    native,
    reasoned,
    think,
    videoscore2,
)
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import NOUNS


FAMILIES = {
    family.name: family
    for family in (
        Family("unifiedreward-llava", max_new_tokens=4096),
        Family("unifiedreward-llava-answers", max_new_tokens=4096),
        Family("unifiedreward-qwen", max_new_tokens=4096),
        Family("unifiedreward-acs", max_new_tokens=4096),
        Family("unifiedreward-sift", max_new_tokens=4096),
        Family("unifiedreward-sglang", max_new_tokens=4096),
        Family("unifiedreward-2.0", frame_rule="stride_floor", max_new_tokens=4096),
        Family("unifiedreward-think", uses_think_tags=True, max_new_tokens=4096),
        Family("unifiedreward-think-qwen3", uses_think_tags=True, max_new_tokens=4096),
        Family("unifiedreward-edit", max_new_tokens=4096),
        Family("unifiedreward-edit-quality", max_new_tokens=4096),
        Family("unifiedreward-flex", max_new_tokens=4096),
        critic.FAMILY,
        editscore.FAMILY,
        editscore.QWEN3,
        videoscore2.FAMILY,
    )
}
BY_NAME = (
    "unifiedreward-llava-answers",
    "unifiedreward-acs",
    "unifiedreward-sift",
    "unifiedreward-sglang",
    "unifiedreward-edit-quality",
)
"""Families of further wordings, which are no judge's default."""
_SHARED = ("Q-IU-PAIR", "Q-VG-POINT", "Q-VU-PAIR", "Q-VU-POINT")
_EDITSCORE = ("ES-CONTEXT", "ES-EDIT", "ES-SC", "ES-PQ")
"""Pieces of two questions."""
_WORDINGS = {
    # The published evaluations of LLaVA judges ask Q-IU-PAIR and Q-VU-PAIR too.
    "unifiedreward-llava": (*_SHARED, "L-IG-PAIR", "Q-IG-POINT", "L-IU-POINT", "L-VG-PAIR"),
    # Their inference scripts ask these, and no published code reads the answers.
    "unifiedreward-llava-answers": ("L-IU-PAIR", "L-VU-PAIR"),
    "unifiedreward-qwen": (*_SHARED, "Q-IG-PAIR", "Q-IG-POINT", "Q-IU-POINT", "Q-VG-PAIR"),
    "unifiedreward-acs": ("Q-IG-ACS",),
    "unifiedreward-sift": (
        *("LEGACY-IG-POINT10", "LEGACY-VG-POINT10", "LEGACY-IU-PAIR", "LEGACY-VU-PAIR"),
    ),
    "unifiedreward-sglang": ("SGL-IG-POINT",),
    "unifiedreward-2.0": (
        *("20-IG-PAIRSCORE", "20-IG-ACS", "20-VG-PAIRSCORE", "20-VG-APS"),
        *("Q-IU-PAIR", "Q-IU-POINT", "Q-VU-PAIR", "Q-VU-POINT"),
    ),
    "unifiedreward-think": ("T-IG-PAIR", "T-IU-PAIR", "T-VG-PAIR", "T-VU-PAIR"),
    "unifiedreward-think-qwen3": ("T3-IG-PAIR", "T3-IU-PAIR", "T3-VG-PAIR", "T3-VU-PAIR"),
    "unifiedreward-edit": ("E-PAIR-RANK", "E-POINT-IF"),
    "unifiedreward-edit-quality": ("E-PAIR-SCORE", "E-POINT-Q"),
    "unifiedreward-flex": ("F-IG-PAIR", "F-VG-PAIR"),
    "llava-critic": ("LC-PAIR", "LC-POINT"),
    "editscore": _EDITSCORE,
    "editscore-qwen3": _EDITSCORE,
    "videoscore2": ("VIDEOSCORE2",),
}
_GRAMMARS = {
    **dict.fromkeys(("Q-IG-PAIR", "Q-VG-PAIR", "L-IG-PAIR", "L-VG-PAIR"), native),
    **dict.fromkeys(("Q-VG-POINT", "20-IG-PAIRSCORE", "20-IG-ACS"), aspects),
    **dict.fromkeys(("20-VG-PAIRSCORE", "20-VG-APS"), aspects),
    **dict.fromkeys(_WORDINGS["unifiedreward-think"], think),
    **dict.fromkeys(_WORDINGS["unifiedreward-think-qwen3"], think),
    **dict.fromkeys(
        (*_WORDINGS["unifiedreward-edit"], *_WORDINGS["unifiedreward-edit-quality"]), edit
    ),
    **dict.fromkeys(_WORDINGS["unifiedreward-flex"], flex),
    **dict.fromkeys(_WORDINGS["llava-critic"], critic),
    **dict.fromkeys(_WORDINGS["unifiedreward-llava-answers"], critic),
    "Q-IG-ACS": aspects,
    "VIDEOSCORE2": videoscore2,
}
"""Module with the answer grammar of a wording; ``reasoned`` where it is not listed."""
_LONG = ("L-IG-PAIR", "L-VG-PAIR", "Q-VU-PAIR", "LEGACY-VU-PAIR")
"""Wordings whose verdict names both: "Image 1 is better than Image 2."."""
_APS = tuple(
    Aspect(name, Scale(1.0, 5.0), f"{name.capitalize()} Score (1-5)")
    for name in ("alignment", "physics", "style")
)


def has_wordings(name: str) -> bool:
    """Check for an installed official wording of a family of `FAMILIES`."""
    installed = packs.installed_wordings()
    return any(one in installed for one in _WORDINGS[name])


def import_hint(name: str) -> str:
    """Command that imports the wordings of a family of `FAMILIES`."""
    return packs.published_prompts()[_WORDINGS[name][0]].hint


def family(name: str) -> Family:
    """Look up a family of `FAMILIES`.

    Raises:
        ConfigError: None of its wordings is installed.
    """
    if not has_wordings(name):
        raise ConfigError(f"family {name!r} needs the official wordings: run {import_hint(name)}")
    return FAMILIES[name]


def template(name: str, task: Task, form: Form) -> Template | None:
    """Build a template of a family of `FAMILIES` from its installed wording.

    Returns:
        None where the family has no template for this task and form.

    Raises:
        ConfigError: The family has one, but its wording is not installed.
    """
    prompts = packs.published_prompts()
    keys = [
        one for one in _WORDINGS[name] if (prompts[one].task, prompts[one].form) == (task, form)
    ]
    if not keys:
        return None
    installed = packs.installed_wordings()
    missing = next((key for key in keys if key not in installed), None)
    if missing:
        raise ConfigError(
            f"{form} of {task.value} in family {name!r} needs the official wordings, and "
            f"{missing} is not among those imported: run {prompts[missing].hint}"
        )
    wordings = [installed[key] for key in keys]
    if name.startswith("editscore"):
        return editscore.editscore(FAMILIES[name], {one.name: one.text for one in wordings})
    return _template(FAMILIES[name], wordings[0])


def outlines(name: str) -> dict[str, Template]:
    """Templates of a family of `FAMILIES` without their words, by the names of their wordings.

    For tables of tasks, forms and scales; nothing needs to be imported.
    """
    family = FAMILIES[name]
    if name.startswith("editscore"):
        return {", ".join(_EDITSCORE): editscore.editscore(family, dict.fromkeys(_EDITSCORE, ""))}
    prompts = packs.published_prompts()
    blank = (
        packs.Wording(one, prompts[one].task, prompts[one].form, "", "") for one in _WORDINGS[name]
    )
    return {wording.name: _template(family, wording) for wording in blank}


def _template(family: Family, wording: packs.Wording) -> Template:
    grammar = _GRAMMARS.get(wording.name, reasoned)
    cells = {(one.task, one.form): one for one in grammar.TEMPLATES}
    like = cells.get((wording.task, wording.form))
    if like is None:  # LLaVA-Critic judges answers about images; its grammar fits those on videos
        like = replace(critic.TEMPLATES[0], task=wording.task)
    if wording.name == "E-PAIR-RANK":
        like = edit.TEMPLATES[0]
    if grammar is native or wording.name == "E-PAIR-RANK":
        family = replace(family, verdict_first=True)
    text = wording.text.removeprefix("<image>\n")  # SGLang's client writes one beside the image
    made = replace(like, family=family, prompt=f"⟪media⟫{text}")
    if wording.name in _LONG:
        noun, tie = NOUNS[wording.task].capitalize(), made.phrases[1]
        phrases = (f"{noun} 1 is better than {noun} 2.", tie, f"{noun} 2 is better than {noun} 1.")
        made = replace(made, phrases=phrases)
    if wording.name == "LEGACY-IG-POINT10":
        made = replace(made, scale=Scale(1.0, 10.0, 1.0))
    if wording.name == "20-VG-APS":
        family = replace(family, frames=16)
        made = replace(made, family=family, aspects=_APS, scale=None, opening="")
    if wording.name == "E-POINT-Q":
        axes = tuple(Aspect(name, edit.POINTS, name) for name in ("naturalness", "artifacts"))
        made = replace(made, aspects=axes, uses_context=False)
    return made
