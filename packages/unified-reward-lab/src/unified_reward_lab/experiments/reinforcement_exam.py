"""Trainings and exams of the study of reinforcement learning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unified_reward import policies
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.io.atomic import replacing
from unified_reward.io.text import parse_json, read_lines
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.dpo import align
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward_lab.alignment import ExamConfig, PreferenceConfig, write_candidates, write_pairs
from unified_reward_lab.examples import write_prompts
from unified_reward_lab.experiments.reinforcement_arms import Arm, Pairs
from unified_reward_lab.experiments.reinforcement_judges import SHIPPED
from unified_reward_lab.experiments.reinforcement_rewards import (
    CountedReward,
    counted_calls,
    oracle_or_zero,
    readable,
)
from unified_reward_lab.microworld import PolicyPrompt, policy_prompt


POLICIES = {Task.IMAGE_GENERATION: "tiny_image", Task.VIDEO_GENERATION: "tiny_video"}
_HISTORY = ("reward", "spread", "kl", "norm_ratio", "constant_groups")
"""Figures by step that are kept."""
_BATCH = 20
"""Prompts that an exam samples in a batch."""
_PROMPTS = 1000
"""Training prompts of a seed, before repetitions are removed."""


def train(arm: Arm, seed: int, open_named: Callable[[str], BaseJudge], out: Path) -> dict[str, Any]:
    """Train an arm with a seed.

    Args:
        arm: The arm.
        seed: Of prompts, samples and training.
        open_named: Opens a judge by its name.
        out: Folder; the trained pipeline is in ``policy`` in it.

    Returns:
        ``questions`` to judges, ``network`` calls (see `NetworkCalls`), ``failures``, ``seconds``
        of the processor, ``curve`` and ``history``.
    """
    judges = {name: open_named(name) for name in {*arm.rewards, "scalar"}}
    began = time.process_time()
    with counted_calls() as calls:
        if isinstance(arm.method, Pairs):
            _align(arm, arm.method, seed, out)
            found: dict[str, Any] = {"questions": arm.method.questions, "failures": 0}
        else:
            found = _learn(arm, arm.method, seed, judges, out)
    counted = {"forward": calls.forward, "trained": calls.trained, "total": calls.total}
    return found | {"network": counted, "seconds": time.process_time() - began}


def _align(arm: Arm, pairs: Pairs, seed: int, out: Path) -> None:
    preferences = PreferenceConfig(prompts=pairs.prompts, n=pairs.n, seed=seed)
    write_candidates(POLICIES[arm.task], arm.task, preferences, out / "candidates")
    options = replace(preferences.pairing, seed=seed)
    write_pairs(
        out / "candidates" / "candidates.jsonl", SHIPPED["unified"], options, out / "pairs.jsonl"
    )
    config = replace(pairs.dpo, optim=replace(pairs.dpo.optim, seed=seed))
    align(out / "pairs.jsonl", checkpoint_path(POLICIES[arm.task]), config, out / "policy")


def _learn(
    arm: Arm,
    config: DiffusionGRPO,
    seed: int,
    judges: Mapping[str, BaseJudge],
    out: Path,
) -> dict[str, Any]:
    rewards = {
        name: CountedReward(judges[name], failed=arm.failed, handling=arm.handling)
        for name in arm.rewards
    }
    watchers = {"second": judges["scalar"], "oracle": oracle_or_zero, "readable": readable}
    report = train_pipeline(
        checkpoint_path(POLICIES[arm.task]),
        unique_prompts(arm.task, seed, out),
        rewards,
        replace(config, optim=replace(config.optim, seed=seed)),
        out,
        held_out_rewards=watchers if config.held_out else {},
    )
    measured = report["held_out_rewards"]
    names = {"reward": arm.rewards[0], **dict(zip(watchers, watchers, strict=True))}
    return {
        "questions": sum(reward.questions for reward in rewards.values()),
        "failures": sum(reward.failures for reward in rewards.values()),
        "curve": [
            {"step": step, **{key: measured[name][k][1] for key, name in names.items()}}
            for k, (step, _) in enumerate(report["held_out"])
        ],
        "history": {name: report[name] for name in _HISTORY},
    }


def unique_prompts(task: Task, seed: int, out: Path) -> Path:
    """Write prompts of the training split, each caption once."""
    path = write_prompts(out, task=task, n=_PROMPTS, seed=seed, split="train")
    rows: dict[str, bytes] = {}
    for _, _, row in read_lines(path):
        rows.setdefault(parse_json(row)["prompt"], row)
    with replacing(path) as file:
        file.write(b"".join(row.rstrip(b"\n") + b"\n" for row in rows.values()))
    return path


def exam_samples(folder: str | Path, task: Task, exam: ExamConfig, file: Path) -> list[Sample]:
    """Sample one candidate for each held-out prompt, or read them from their file.

    Two policies get the same prompts with the same noise.
    """
    prompts = [policy_prompt(task, split="test", seed=exam.seed, index=i) for i in range(exam.n)]
    if not file.exists():
        pixels = sample_each(folder, prompts, exam.seed)
        with replacing(file) as handle:
            np.savez_compressed(handle, pixels=pixels)
    with np.load(file) as saved:
        pixels = saved["pixels"]
    is_video = task is Task.VIDEO_GENERATION
    media = [Video(each, "THWC", fps=4.0) if is_video else Image(each, "HWC") for each in pixels]
    rows = zip(prompts, media, strict=True)
    return [Sample(task, p.prompt, (medium,), id=p.id) for p, medium in rows]


def sample_each(folder: str | Path, prompts: Sequence[PolicyPrompt], seed: int) -> Any:
    """Sample one candidate for each prompt; two policies get the same noise.

    Returns:
        Pixels, uint8 RGB, shape (B, H, W, 3), or (B, T, H, W, 3) for videos.

    Raises:
        ConfigError: The folder is no pipeline.
    """
    policy = policies.load(folder, batch_size=1)
    if not isinstance(policy, DiffusionPolicy):
        raise ConfigError(f"{folder} is no pipeline")
    made: list[Any] = []
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        noise = [policies.seeds(prompt.id, 1, seed)[0] for prompt in part]
        made.append(_sample(policy, [prompt.prompt for prompt in part], noise))
    return np.concatenate(made)


def _sample(policy: DiffusionPolicy, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
    """Sample different prompts in a batch; as `DiffusionPolicy.sample`, but faster."""
    inputs = policy.inputs("", len(prompts)) | {"prompt": [*prompts]}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.inference_mode():
        out = policy.pipeline(generator=generators, output_type="np", **inputs)
    is_video = policy.tasks == (Task.VIDEO_GENERATION,)
    pixels = np.asarray(out.frames if is_video else out.images)
    pixels = pixels[:, : policy.options.frames] if is_video else pixels
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
