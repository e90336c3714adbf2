"""Warm-up of a tiny vision tower: what stands in each cell of a picture, by plain classification.

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


_KINDS: dict[str, tuple[str, ...]] = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}


@dataclass(frozen=True)
class VisionWarmup:
    """How long and how fast the tower is warmed up."""

    steps: int = 700
    batch_size: int = 64
    lr: float = 3e-3
    flawed: float = 0.2
    """Share of pictures with a flaw, in [0, 1]."""


def warm_up(model: Any, image_processor: Any, config: VisionWarmup, *, seed: int) -> list[float]:
    """Train the vision tower of a tiny Qwen3-VL to classify cells.

    Args:
        model: The model; its vision tower is trained in place.
        image_processor: Its image processor.
        config: Steps and rates.
        seed: Names the pictures; training captions only.

    Returns:
        Loss by step, the sum of three cross-entropies in nats per cell.
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
        cells = _cells(torch.stack(list(seen)))
        loss = sum(
            nn.functional.cross_entropy(head(cells).flatten(0, 1), labels[kind].flatten())
            for kind, head in heads.items()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss))
    return losses


def _cells(tokens: Tensor) -> Tensor:
    """Mean of each quadrant: (B, 16, D), the tokens row by row, to (B, 4, D)."""
    batch, count, width = tokens.shape
    side = round(count**0.5)
    grid = tokens.view(batch, 2, side // 2, 2, side // 2, width)
    return grid.mean((2, 4)).flatten(1, 2)


def _batch(
    config: VisionWarmup, rng: np.random.Generator
) -> tuple[list[Pillow.Image], dict[str, Tensor]]:
    """Pictures, and for every kind of attribute the class of every cell, shape (B, 4)."""
    pictures: list[Pillow.Image] = []
    labels = {kind: torch.zeros(config.batch_size, len(CELLS), dtype=torch.long) for kind in _KINDS}
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
