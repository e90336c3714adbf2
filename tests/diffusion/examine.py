"""Examination of a random tiny pipeline: what of the library works on it, and why not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests import diffusion
from tests.diffusion.tiny import Tiny
from unified_reward.core.errors import ModelError
from unified_reward.policies.diffusion import DiffusionPolicy


class Row(NamedTuple):
    """Cells of a pipeline behind its name and its task."""

    candidates: str
    dpo: str
    recorded_sampling: str
    merged_adapters: str
    why_not: str


CHECKS: dict[str, Callable[[Any, Tiny], bool]] = {}
"""Check of a pipeline by the field of its cell; raises ModelError with the reason of a refusal."""


def examine(name: str) -> Row:
    """Measure the cells of a tiny pipeline; a field without a check is a dash.

    Args:
        name: Its name in `PIPELINES`.
    """
    measured, reasons = dict.fromkeys(Row._fields[:-1], "-"), []
    for field, check in {"candidates": samples, **CHECKS}.items():
        tiny = diffusion.PIPELINES[name]
        try:
            measured[field] = "yes" if check(tiny.build(), tiny) else "wrong"
        except ModelError as error:
            measured[field] = "no"
            reasons.append(str(error).replace("|", "/").replace("\n", " "))
    return Row(**measured, why_not="; ".join(dict.fromkeys(reasons)))


def samples(pipeline: Any, tiny: Tiny) -> bool:
    """Each candidate follows its own seed and the prompt, alone as in a batch."""
    policy = DiffusionPolicy(pipeline, tiny.sampling, name="tiny", batch_size=2)
    pipeline.set_progress_bar_config(disable=True)
    first, second = (pixels(policy, "a red star", [1, 2])[i] for i in (0, 1))
    other, alone = pixels(policy, "two blue cats", [1, 2]), pixels(policy, "a red star", [1])[0]
    depends = (first != second).any() and all(
        (mine != its).any() for mine, its in zip((first, second), other, strict=True)
    )
    return bool(depends and np.abs(first - alone).max() <= 1)


def pixels(policy: DiffusionPolicy, prompt: str, seeds: list[int]) -> list[Any]:
    """Candidates as integers, so that they can be subtracted."""
    made: list[Any] = policy.sample(prompt, (), seeds)
    return [np.asarray(medium.source, np.int16) for medium in made]
