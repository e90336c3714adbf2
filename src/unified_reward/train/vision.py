"""Warm-up of a tiny vision tower: every token tells its cell and what stands there.

A published VLM starts from a pretrained vision tower; from nothing, a tiny one needs tens of
thousands of questions before it tells shapes apart. The classifiers are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from rich.progress import track
from torch import Tensor, nn

from unified_reward.microworld import degrade, describe, draw_scene, render, split_of
from unified_reward.microworld.corrupt import PICTURE_FLAWS
from unified_reward.microworld.scene import CELLS, COLOURS, SHAPES, SIZES


_KINDS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "size": SIZES,
    "cell": CELLS,
}


@dataclass(frozen=True)
class VisionWarmup:
    """How long and how fast the tower is warmed up."""

    steps: int = 700
    batch_size: int = 64
    lr: float = 3e-3
    flawed: float = 0.2
    """Share of pictures with a flaw, in [0, 1]."""


def warm_up(model: Any, image_processor: Any, config: VisionWarmup, *, seed: int) -> list[float]:
    """Train the vision tower of a tiny Qwen3-VL by classifying each of its tokens.

    Args:
        model: The model; its vision tower is trained in place.
        image_processor: Its image processor.
        config: Steps and rates.
        seed: Names the pictures; training captions only.

    Returns:
        Loss by step, the sum of four cross-entropies in nats per token.
    """
    rng = np.random.default_rng(seed)
    width = model.config.text_config.hidden_size
    heads = nn.ModuleDict({kind: nn.Linear(width, 1 + len(of)) for kind, of in _KINDS.items()})
    weights = [*model.model.visual.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    losses: list[float] = []
    for _ in track(range(config.steps), description="warming up the vision tower"):
        pictures, labels = _batch(config, rng)
        inputs = image_processor(pictures, return_tensors="pt")
        seen = model.model.get_image_features(**inputs).pooler_output
        tokens = torch.stack(list(seen))
        labels = {kind: values[:, _cell_of(tokens.shape[1])] for kind, values in labels.items()}
        each = [
            nn.functional.cross_entropy(head(tokens).flatten(0, 1), labels[kind].flatten())
            for kind, head in heads.items()
        ]
        loss = torch.stack(each).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _cell_of(count: int) -> Tensor:
    """The cell in which each of the picture's tokens lies, row by row; shape (count,)."""
    side = round(count**0.5)
    half = torch.arange(side) // (side // 2)
    return (2 * half[:, None] + half[None, :]).flatten()


def _batch(
    config: VisionWarmup, rng: np.random.Generator
) -> tuple[list[Pillow.Image], dict[str, Tensor]]:
    """Pictures, and for every kind of attribute the class of every cell, shape (B, 4)."""
    pictures: list[Pillow.Image] = []
    labels = {kind: torch.zeros(config.batch_size, len(CELLS), dtype=torch.long) for kind in _KINDS}
    labels["cell"] += 1 + torch.arange(len(CELLS))
    while len(pictures) < config.batch_size:
        scene = draw_scene(rng, n_things=int(rng.integers(1, 4)), is_clip=False)
        if split_of(describe(scene)) == "test":
            continue
        pixels = render(scene, seed=int(rng.integers(2**32)))
        if rng.random() < config.flawed:
            pixels = degrade(
                pixels, str(rng.choice(PICTURE_FLAWS)), float(rng.uniform(0.3, 1)), rng
            )
        for thing in scene.things:
            for kind, values in _KINDS.items():
                place = 1 + values.index(getattr(thing, kind))
                labels[kind][len(pictures), CELLS.index(thing.cell)] = place
        pictures.append(Pillow.fromarray(pixels))
    return pictures, labels
