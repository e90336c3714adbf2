"""Judges of the study of reinforcement learning: two that ship, and four trained here."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_bytes
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import PreferenceConfig, write_candidates
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.reinforcement_clip import ClipTraining, train_clip
from unified_reward_lab.experiments.votes import vote


SHIPPED = {"unified": "tiny_judge", "scalar": "tiny_scalar"}
_OPTIM = OptimConfig(steps=320, batch_size=32, accumulate=1, lr=5e-4, muon_lr=1e-3)
"""As of `joint_learning`: equally many steps for a judge of one task and of four."""
_VOTES = OptimConfig(steps=400, batch_size=32, accumulate=1, lr=3e-4, muon_lr=6e-4, warmup=0.03)
_VOTE_SEED, _VOTE_PROMPTS, _VOTES_A_PROMPT = 10, 384, 6
_CLIP = ClipTraining(steps=800, batch_size=64)


def make_judge(work: Path, name: str) -> str:
    """Reference of a judge by its name here; one that is missing is trained.

    Args:
        work: Folder of the study.
        name: ``unified`` and ``scalar``, which ship; ``clip``; ``specialist``, a scalar judge of
            images alone, and ``joint``, one of all four tasks with as many steps; ``voted``, the
            shipped scalar judge taught further by votes on what ``tiny_image`` makes.
    """
    folder = work / "judges" / name
    if name in SHIPPED:
        return SHIPPED[name]
    is_made = (folder / "done").exists()
    if name == "clip":
        if not is_made:
            train_clip(_CLIP, folder)
    elif not is_made:
        train_judge(_voted(work) if name == "voted" else _scalar(name), folder)
    (folder / "done").touch()
    return f"clip-cosine:{folder}" if name == "clip" else str(folder)


def _scalar(name: str) -> JudgeTraining:
    cells = dict.fromkeys(CELLS, 1.0)
    if name == "specialist":
        cells = {cell: 1.0 for cell in CELLS if CELLS[cell][0] is Task.IMAGE_GENERATION}
    return JudgeTraining(
        _OPTIM,
        base="tiny_base",
        data="microworld",
        data_options={"cells": cells},
        head="scalar",
        family="compact",
        frames=4,
    )


def _voted(work: Path) -> JudgeTraining:
    """Training on votes of the oracle on candidates of prompts that nothing else uses."""
    task, seed = Task.IMAGE_GENERATION, _VOTE_SEED
    folder = work / "votes"
    preferences = PreferenceConfig(prompts=_VOTE_PROMPTS, seed=seed)
    write_candidates("tiny_image", task, preferences, folder / "candidates")
    rows: list[Mapping[str, Any]] = [*vote(folder / "candidates", task, seed, _VOTES_A_PROMPT)]
    random.Random(0).shuffle(rows)
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_bytes(folder / "votes.jsonl", "".join(lines).encode())
    return JudgeTraining(
        _VOTES,
        base="tiny_scalar",
        data=str(folder / "votes.jsonl"),
        head="scalar",
        family="compact",
        frames=4,
    )
