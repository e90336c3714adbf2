"""The part of a page that shows what policies make before and after alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_reward import media, policies
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Candidate, Image, Task
from unified_reward.report.page import Animation, Bar, Card, Page
from unified_reward_lab.microworld import PolicyPrompt, policy_prompt


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
        one, two = (policies.load(checkpoint_path(which), batch_size=1) for which in both)
        prompts = [policy_prompt(task, split="test", seed=seed, index=i) for i in range(each)]
        page.gallery([_card(asked, one, two, seed) for asked in prompts])
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


def _card(asked: PolicyPrompt, before: policies.Policy, after: policies.Policy, seed: int) -> Card:
    """What the prompt is about, and what both policies make of it."""
    shown: list[Candidate] = [*asked.context]
    lines: list[str] = []
    for side, policy in (("before", before), ("after", after)):
        named = policies.seeds(asked.id, 1, seed)
        (candidate,) = policy.sample(asked.prompt, asked.context, named)
        worth = None if candidate is None else asked.oracle_score(candidate)
        words = f" {candidate}," if isinstance(candidate, str) else ""
        told = "unreadable" if worth is None else f"worth {worth:.2f}"
        lines.append(f"{side}:{words} {told}")
        shown += [] if candidate is None or words else [candidate]
    return Card([_visible(one) for one in shown], asked.prompt, lines)


def _visible(medium: Any) -> media.PILImage | Animation:
    if isinstance(medium, Image):
        return media.open_image(medium)
    return Animation(np.asarray(media.sample_frames(medium, 8).pixels), medium.fps or 4.0)
