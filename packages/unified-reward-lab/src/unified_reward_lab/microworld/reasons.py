"""Reasons for the preference between two generated candidates, in the microworld's words."""

from __future__ import annotations

from unified_reward.core.samples import Example


def reasons(example: Example) -> str:
    """Facts of the caption that are false of each candidate, and its flaw.

    >>> from unified_reward.core.samples import Task
    >>> tags = {"facts_first": "red star no, clean", "facts_second": "red star yes, clean"}
    >>> reasons(Example(Task.IMAGE_GENERATION, "a red star", tags=tags))
    'first: red star no. second: right'
    """
    return ". ".join(
        f"{name}: {_faults(example.tags[f'facts_{name}'])}" for name in ("first", "second")
    )


def _faults(facts: str) -> str:
    named = [fact for fact in facts.split(", ") if fact.endswith((" no", " flaw"))]
    return ", ".join(named) or "right"
