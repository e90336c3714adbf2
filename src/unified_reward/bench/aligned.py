"""The part of a page that shows what policies make before and after alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_reward import media, policies
from unified_reward.judge import located
from unified_reward.microworld import brief
from unified_reward.report import Bar, Card, Moving, Page
from unified_reward.types import Candidate, Image, Task, Video


Both = tuple[Any, Any]
"""A policy before and after, as references."""


def show_aligned(
    page: Page, made: Mapping[Task, Both], reports: Mapping[str, Any], *, each: int, seed: int
) -> int:
    """Bars of every exam, and a few held-out prompts with what both policies make of them.

    Args:
        page: Grows by a section a policy.
        made: The policies by their task.
        reports: Of the stages; exams are named ``TASK/exam``.
        each: Prompts shown of every task.
        seed: Names the series of prompts.

    Returns:
        How many prompts were shown.
    """
    for task, both in made.items():
        told = reports[f"{task.value}/exam"]
        n = told["before"]["oracle"]["n"]
        page.section(
            f"{task.value.replace('_', ' ').capitalize()}: aligned by the judge",
            f"{n} held-out prompts, one candidate each, the same noise before and after. The "
            "oracle knows the truth and not the judge. Whiskers are 95 % intervals.",
        )
        page.bars(_bars(told), title="Worth to the oracle, readable, and reward of the judge")
        one, two = (policies.load(located(which), batch_size=1) for which in both)
        cards: list[Card] = []
        for i in range(each):
            asked = brief(task, split="test", seed=seed, index=i)
            named = policies.seeds(asked.id, 1, seed)
            for mark, policy in (("before", one), ("after", two)):
                (candidate,) = policy.sample(asked.prompt, asked.context, named)
                if candidate is not None:
                    worth = asked.worth(candidate)
                    said = "unreadable" if worth is None else f"worth {worth:.2f}"
                    cards.append(_card(asked.prompt, asked.context, candidate, said, mark))
        page.gallery(cards)
    return each * len(made)


def _bars(told: Mapping[str, Any]) -> list[Bar]:
    bars: list[Bar] = []
    for name in ("oracle", "readable", "judge_reward"):
        for side in ("before", "after"):
            figure = told[side][name]
            if figure["value"] is None:  # a judge that could read none of the candidates
                continue
            label = f"{name.replace('_', ' ')}, {side}"
            low, high = figure["ci95"]
            bars.append(Bar(label, figure["value"], low, high, figure["n"]))
    return bars


def _card(
    prompt: str, context: tuple[Any, ...], candidate: Candidate, said: str, mark: str
) -> Card:
    shown = [_visible(one) for one in (*context, candidate) if isinstance(one, Image | Video)]
    words = [candidate] if isinstance(candidate, str) else []
    return Card(shown, prompt, [*words, said], mark=mark)


def _visible(medium: Image | Video) -> media.Picture | Moving:
    if isinstance(medium, Image):
        return media.open_image(medium)
    return Moving(np.asarray(media.sample_frames(medium, 8).pixels), medium.fps or 4.0)
