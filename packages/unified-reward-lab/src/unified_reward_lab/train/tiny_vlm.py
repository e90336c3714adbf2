"""The tiny VLM policy: adapters on the tiny base, trained on answers of people who err.

Its base knows better than these answers, so that there is something to align.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path, checkpoints
from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_json
from unified_reward.io.text import read_json
from unified_reward.policies import Sampling, write_defaults
from unified_reward.policies.vlm import build_request
from unified_reward.train.optim import OptimConfig
from unified_reward.train.sft import ChatExample, fit
from unified_reward_lab.microworld import random_reply
from unified_reward_lab.microworld.candidate_scenes import CandidateScene, keyed_rng
from unified_reward_lab.microworld.items import VIDEO_TASKS, random_scene_with_question
from unified_reward_lab.microworld.questions import Style


_TASKS = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)


@dataclass(frozen=True)
class TinyVLMTraining:
    """Training settings of the tiny VLM policy."""

    optim: OptimConfig
    """Settings with a LoRA rank above 0."""
    base: str = "tiny_base"
    """A checkpoint of the laboratory; the policy refers to it by its relative path."""
    styles: Mapping[Style, float] = field(
        default_factory=lambda: {
            "right": 0.55,
            "padded right": 0.1,
            "partly": 0.12,
            "wrong": 0.15,
            "evasive": 0.08,
        }
    )
    """Relative weights of the styles of answers it is trained on."""

    def __post_init__(self) -> None:
        if not self.optim.lora_rank:
            raise ConfigError("the policy consists of adapters alone: lora_rank must be above 0")
        known = dict(checkpoints())
        if self.base not in known:  # beside which alone the policy would find it
            raise ConfigError(f"{self.base} is none of {', '.join(known)}")


class _Answers:
    """Questions of the training split with answers of all styles, images and videos in blocks."""

    def __init__(self, config: TinyVLMTraining) -> None:
        self._config = config
        self._n = config.optim.steps * config.optim.batch_size * config.optim.accumulate

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> ChatExample:
        optim, styles = self._config.optim, self._config.styles
        rng = keyed_rng("speaker", optim.seed, index)
        task = _TASKS[index // optim.batch_size % 2]
        scene, question = random_scene_with_question(
            rng, split="train", is_video=task in VIDEO_TASKS
        )
        shares = np.array([*styles.values()])
        names: list[Style] = [*styles]
        style = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        reply = random_reply(question, style, rng, split="train")
        return ChatExample(
            build_request(question.text, (CandidateScene(scene).render(rng),)), reply.text
        )


def train_tiny_vlm(config: TinyVLMTraining, out: Path) -> list[tuple[int, float]]:
    """Train the policy to answer like people who err, and save its adapters.

    Args:
        config: Training settings.
        out: Folder of the adapters.

    Returns:
        Loss in nats per answer token by optimiser step.
    """
    vlm = load_vlm(checkpoint_path(config.base), dtype="float32")
    _, losses = fit(
        vlm.model, vlm.chat, _Answers(config), config.optim, out, title="training the policy"
    )
    for file in (out / "adapter").glob("adapter_*"):
        shutil.move(file, out / file.name)
    shutil.rmtree(out / "adapter")
    config_file = out / "adapter_config.json"
    adapter = read_json(config_file)
    adapter["base_model_name_or_path"] = f"../{checkpoint_path(config.base).name}"
    write_json(config_file, adapter)
    write_defaults(Sampling(max_new_tokens=48), out)
    return losses
