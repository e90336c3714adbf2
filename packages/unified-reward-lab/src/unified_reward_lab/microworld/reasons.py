"""Reasons for the preference between two generated candidates, in the microworld's words."""

from __future__ import annotations

from collections.abc import Mapping


def reasons(tags: Mapping[str, str]) -> str:
    """Numbers of the caption's facts that hold and that do not, and the flaw, of each candidate.

    Args:
        tags: Those of a comparison of generated candidates, see `make_example`.

    >>> tags = {"facts_first": "red star no, one object yes, clean"}
    >>> tags["facts_second"] = "red star yes, one object yes, small flaw"
    >>> reasons(tags)
    'first: 1 yes, 1 no, clean. second: 2 yes, 0 no, small flaw'
    """
    return ". ".join(f"{name}: {_counted(tags[f'facts_{name}'])}" for name in ("first", "second"))


def _counted(facts: str) -> str:
    *answers, flaw = facts.split(", ")
    n = sum(answer.endswith(" yes") for answer in answers)
    return f"{n} yes, {len(answers) - n} no, {flaw}"
