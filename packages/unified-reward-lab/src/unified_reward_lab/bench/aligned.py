"""Page sections that show samples of policies before and after alignment."""

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
"""References of a policy before and after alignment."""


def show_aligned(
    page: Page, made: Mapping[Task, Both], reports: Mapping[str, Any], *, each: int, seed: int
) -> int:
    """Add bars of every exam, and samples of both policies for a few held-out prompts.

    Args:
        page: Page that gets a section for each policy.
        made: Policies by task.
        reports: Reports of the stages; exams are named ``TASK/exam``.
        each: Prompts of every task.
        seed: Random seed of the prompts.

    Returns:
        Number of prompts on the page.
    """
    for task, both in made.items():
        exam = reports[f"{task.value}/exam"]
        n = exam["before"]["oracle"]["n"]
        page.section(
            f"{task.value.replace('_', ' ').capitalize()}: aligned by the judge",
            f"{n} held-out prompts, one candidate each, the same noise before and after. The "
            "oracle knows the truth and not the judge. Whiskers are 95 % intervals.",
        )
        page.bars(_bars(exam), title="Score of the oracle, readable, and reward of the judge")
        before, after = (policies.load(checkpoint_path(which), batch_size=1) for which in both)
        prompts = [policy_prompt(task, split="test", seed=seed, index=i) for i in range(each)]
        page.gallery([_card(prompt, before, after, seed) for prompt in prompts])
    return each * len(made)


def _bars(exam: Mapping[str, Any]) -> list[Bar]:
    bars: list[Bar] = []
    for name in ("oracle", "readable", "judge_reward"):
        for side in ("before", "after"):
            figure = exam[side][name]
            if figure["value"] is None:  # a judge that could read none of the candidates
                continue
            label = f"{name.replace('_', ' ')}, {side}"
            low, high = figure["ci95"]
            bars.append(Bar(label, figure["value"], low, high, figure["n"]))
    return bars


def _card(prompt: PolicyPrompt, before: policies.Policy, after: policies.Policy, seed: int) -> Card:
    """Card of a prompt, its context and the samples of both policies."""
    media_shown: list[Candidate] = [*prompt.context]
    lines: list[str] = []
    for side, policy in (("before", before), ("after", after)):
        named = policies.seeds(prompt.id, 1, seed)
        (candidate,) = policy.sample(prompt.prompt, prompt.context, named)
        worth = None if candidate is None else prompt.oracle_score(candidate)
        words = f" {candidate}," if isinstance(candidate, str) else ""
        score = "unreadable" if worth is None else f"worth {worth:.2f}"
        lines.append(f"{side}:{words} {score}")
        media_shown += [] if candidate is None or words else [candidate]
    return Card([open_medium(medium) for medium in media_shown], prompt.prompt, lines)


def open_medium(medium: Any) -> media.PILImage | Animation:
    """Open an image, or 8 frames of a video, for a card."""
    if isinstance(medium, Image):
        return media.open_image(medium)
    return Animation(np.asarray(media.sample_frames(medium, 8).pixels), medium.fps or 4.0)
