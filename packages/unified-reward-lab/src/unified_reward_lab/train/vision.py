"""Warm-up of a tiny vision tower: each token is classified by its cell and the thing in it.

A published VLM starts from a tower pretrained against text; from scratch, a tiny one needs tens of
thousands of questions before it distinguishes shapes. The classes are the language model's own
embeddings of the words, so that an image's token is near the words that are true of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from rich.progress import track
from torch import Tensor, nn

from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError
from unified_reward_lab.microworld import degrade, describe, random_scene, render, split_of
from unified_reward_lab.microworld.corrupt import IMAGE_FLAWS
from unified_reward_lab.microworld.scene import CELLS, COLOURS, SHAPES, SIZES


_KINDS: dict[str, tuple[str, ...]] = {
    "colour": ("nothing", *COLOURS),
    "shape": ("nothing", *SHAPES),
    "size": ("nothing", *SIZES),
    "row": ("top", "bottom"),
    "column": ("left", "right"),
}


@dataclass(frozen=True)
class VisionWarmup:
    """Warm-up settings of the vision tower."""

    steps: int = 400
    batch_size: int = 64
    lr: float = 1.5e-3
    flawed: float = 0.2
    """Share of images with a flaw, in [0, 1]."""


def warm_up(model: Any, chat: Chat, config: VisionWarmup, *, seed: int) -> list[float]:
    """Train the vision tower of a tiny Qwen3-VL by classifying each of its tokens.

    Args:
        model: The model; its vision tower and word embeddings are trained in place.
        chat: Its processor, in whose vocabulary every class is one token.
        config: Warm-up settings.
        seed: Seed of the images; training captions only.

    Raises:
        ConfigError: The word of a class is not a single token.

    Returns:
        Loss by step, the sum of five cross-entropies in nats per token.
    """
    rng = np.random.default_rng(seed)
    words = {
        kind: torch.tensor(chat.tokens(" " + " ".join(named))) for kind, named in _KINDS.items()
    }
    for kind, named in _KINDS.items():
        if len(words[kind]) != len(named):
            raise ConfigError(f"each word of {kind} must be a single token: {', '.join(named)}")
    embedding = model.get_input_embeddings()
    weights = [*model.model.visual.parameters(), *embedding.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    losses: list[float] = []
    for _ in track(range(config.steps), description="warming up the vision tower"):
        images, labels = _batch(config, rng)
        inputs = chat.processor.image_processor(images, return_tensors="pt")
        seen = model.model.get_image_features(**inputs).pooler_output
        tokens = torch.stack(list(seen))
        each = [
            nn.functional.cross_entropy(
                (tokens @ embedding(named).T).flatten(0, 1), labels[kind].flatten()
            )
            for kind, named in words.items()
        ]
        loss = torch.stack(each).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _batch(
    config: VisionWarmup, rng: np.random.Generator
) -> tuple[list[Pillow.Image], dict[str, Tensor]]:
    """Images, and for each kind of attribute the class of every cell, shape (B, 4)."""
    images: list[Pillow.Image] = []
    labels = {kind: torch.zeros(config.batch_size, len(CELLS), dtype=torch.long) for kind in _KINDS}
    labels["row"] += torch.arange(len(CELLS)) // 2
    labels["column"] += torch.arange(len(CELLS)) % 2
    while len(images) < config.batch_size:
        scene = random_scene(rng, n_things=int(rng.integers(1, 4)), is_video=False)
        if split_of(describe(scene)) == "test":
            continue
        pixels = render(scene, seed=int(rng.integers(2**32)))
        if rng.random() < config.flawed:
            pixels = degrade(pixels, str(rng.choice(IMAGE_FLAWS)), float(rng.uniform(0.3, 1)), rng)
        for thing in scene.things:
            for kind in ("colour", "shape", "size"):
                place = _KINDS[kind].index(getattr(thing, kind))
                labels[kind][len(images), CELLS.index(thing.cell)] = place
        images.append(Pillow.fromarray(pixels))
    return images, labels
