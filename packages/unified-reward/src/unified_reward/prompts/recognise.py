"""Match published questions against the imported official wordings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from unified_reward.core.samples import Form, Task
from unified_reward.prompts.packs import SLOT, installed_wordings


class RecognisedWording(NamedTuple):
    """An official wording that a question follows."""

    template: str
    """Name of the wording."""
    slots: Mapping[str, str]
    """Texts filled in, by slot: ``prompt``, ``first``, ``second``."""


def recognise(question: str, task: Task, form: Form) -> RecognisedWording | None:
    """Find the installed wording that a question was made from, and read its slots.

    Args:
        question: A published question, without the placeholders of its images. White space around
            it does not matter.
        task: Task of the question.
        form: ``score`` or ``compare``.

    Returns:
        The wording and its slots; of several readings the one with the shortest slots. None where
        no wording of this task and form fits the whole question.

    Raises:
        ConfigError: The pack was changed since it was written.
    """
    for wording in installed_wordings().values():
        if (wording.task, wording.form) == (task, form):
            slots = _slots(wording.text.strip(), question)
            if slots is not None:
                return RecognisedWording(wording.name, slots)
    return None


def _slots(text: str, question: str) -> Mapping[str, str] | None:
    pieces = SLOT.split(text)
    head, tail = pieces[0], pieces[-1]
    # With both ends checked the pattern is fast, however often the question repeats delimiters.
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
