"""Tell an imported wording in a published question, and what stands in its slots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from unified_reward.core.samples import Form, Task
from unified_reward.prompts.packs import SLOT, installed_wordings


class RecognisedWording(NamedTuple):
    """An official wording met in a text, and what stood in its slots."""

    template: str
    slots: Mapping[str, str]


def recognise(question: str, task: Task, form: Form) -> RecognisedWording | None:
    """Tell which installed wording a question is, and what stands in its slots.

    Args:
        question: A published question, without the marks of its pictures. White space around it
            does not matter.
        task: What it asks about.
        form: Whether it asks for a score or a comparison.

    Returns:
        The wording and its slots; of several readings the one with the shortest slots. None where
        no wording of this task and form fits the whole question.

    Raises:
        ConfigError: The pack was changed since it was written.
    """
    for one in installed_wordings().values():
        if (one.task, one.form) == (task, form):
            slots = _slots(one.text.strip(), question)
            if slots is not None:
                return RecognisedWording(one.name, slots)
    return None


def _slots(text: str, question: str) -> Mapping[str, str] | None:
    pieces = SLOT.split(text)
    head, tail = pieces[0], pieces[-1]
    # Where both ends are right the pattern is quick, however often a text repeats its inside.
    if not (question.lstrip().startswith(head) and question.rstrip().endswith(tail)):
        return None
    match = _pattern(text).fullmatch(question)
    return match.groupdict() if match else None


@cache
def _pattern(text: str) -> re.Pattern[str]:
    pieces = SLOT.split(text)
    pattern, known = r"\s*" if pieces[0] else "", set[str]()
    for literal, slot in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        pattern += re.escape(literal)
        if slot:
            pattern += f"(?P={slot})" if slot in known else f"(?P<{slot}>.*?)"
            known.add(slot)
    return re.compile(pattern + (r"\s*" if pieces[-1] else ""), re.DOTALL)
