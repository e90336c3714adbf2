"""The tiny autoencoders of the microworld: 64 x 64 pixels as 8 x 8 latents, and back.

One is of pictures, one of clips, since no pipeline of diffusers draws both with the same class.
Knows nothing of captions and of what is done with latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from rich.progress import track
from torch import Tensor
from torch.nn.functional import l1_loss

from unified_reward.microworld import render
from unified_reward.microworld.render import SIDE_PX
from unified_reward.microworld.shown import draw_captioned, seeded


CLIP_FRAMES = 9
"""Of a clip as Wan's autoencoder takes it, a multiple of four and one; the last one is doubled."""


@dataclass(frozen=True)
class Autoencoding:
    """How an autoencoder is taught."""

    steps: int
    batch_size: int = 16
    """Pictures or clips in a step."""
    lr: float = 2e-3
    """Peak learning rate; one cycle."""
    kl: float = 1e-6
    """Weight of the divergence of a latent from N(0, 1), in nats, beside the absolute error."""
    seed: int = 0


def build_image_autoencoder() -> AutoencoderKL:
    """For pictures, 4 channels of latents; random weights, seed torch before."""
    # Their annotations name tuples of one.
    blocks: Any = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (16, 32, 48, 48),
    }
    return AutoencoderKL(
        **blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE_PX,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_clip_autoencoder() -> AutoencoderKLWan:
    """For clips of 9 frames, 5 frames of 8 channels of latents; random weights."""
    channels, patch = 8, 4
    return AutoencoderKLWan(
        base_dim=24,
        z_dim=channels,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        patch_size=patch,
        scale_factor_temporal=2,
        scale_factor_spatial=8,
    )


def drawn(index: int, *, is_clip: bool, seed: int) -> tuple[str, Tensor]:
    """A caption of the training split and what it says, in [-1, 1].

    Args:
        index: Place in the series.
        is_clip: Whether a clip is wanted.
        seed: Names the series.

    Returns:
        The caption, and pixels of shape (3, 64, 64), or (3, 9, 64, 64) of a clip.
    """
    rng = seeded("generator", is_clip, seed, index)
    scene, caption = draw_captioned(rng, split="train", is_clip=is_clip)
    pixels = render(scene, seed=int(rng.integers(2**32)))
    if is_clip:
        pixels = np.concatenate([pixels, pixels[-1:]])
    return caption.text, torch.from_numpy(pixels).movedim(-1, 0).float() / 127.5 - 1


def teach_autoencoder(model: Any, config: Autoencoding, *, is_clip: bool) -> list[float]:
    """Train an autoencoder in place to give back what it is shown, and fit its scale.

    Returns:
        Loss by step: absolute error of values in [-1, 1], and the weighted divergence.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    losses: list[float] = []
    for step in track(range(config.steps), description="teaching the autoencoder"):
        first = step * config.batch_size
        batch = torch.stack(
            [
                drawn(first + i, is_clip=is_clip, seed=config.seed)[1]
                for i in range(config.batch_size)
            ]
        )
        latent = model.encode(batch).latent_dist
        loss = l1_loss(model.decode(latent.sample()).sample, batch)
        loss = loss + config.kl * latent.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
