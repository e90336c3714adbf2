"""The tiny autoencoders of the microworld: 64 x 64 pixels as 8 x 8 latents, and back.

One is of pictures, one of clips, since no pipeline of diffusers draws both with the same class.
Knows nothing of captions and of what is done with latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from rich.progress import track
from torch import Tensor
from torch.nn.functional import mse_loss

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
    still_steps: int = 0
    """Steps before, in which an autoencoder of clips sees four times as many single frames."""
    kl: float = 1e-6
    """Weight of the divergence of a latent from N(0, 1), in nats, beside the squared error."""
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
    """For clips of 9 frames, 5 frames of 8 channels of latents; random weights.

    It begins frame by frame: no frame sees one before it, a latent frame is the last of the two it
    stands for, and is shown twice. So what it learns of single frames holds for clips.
    """
    channels, patch = 8, 2
    model = AutoencoderKLWan(
        base_dim=24,
        z_dim=channels,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        patch_size=patch,
        scale_factor_temporal=2,
        scale_factor_spatial=8,
    )
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, torch.nn.Conv3d):
                part.weight[:, :, :-1] = 0
                if name.endswith("time_conv"):
                    twice = part.out_channels // part.in_channels
                    same = torch.eye(part.in_channels).repeat(twice, 1)
                    part.weight.zero_()
                    part.weight[:, :, -1, 0, 0] = same
                    if part.bias is not None:
                        part.bias.zero_()
    return model


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
    """Train an autoencoder in place to give back what it is shown.

    Returns:
        Loss by step: squared error of values in [-1, 1], and the weighted divergence.
    """
    losses: list[float] = []
    if config.still_steps:
        stills = _batches(config, config.still_steps, 4, is_clip=is_clip)
        frames = (_single(batch, config.seed + i) for i, batch in enumerate(stills))
        losses += _fit(model, frames, config.still_steps, config)
    losses += _fit(model, _batches(config, config.steps, 1, is_clip=is_clip), config.steps, config)
    return losses


def _batches(config: Autoencoding, steps: int, times: int, *, is_clip: bool) -> Iterator[Tensor]:
    size = config.batch_size * times
    for step in range(steps):
        rows = range(step * size, step * size + size)
        made = [drawn(i, is_clip=is_clip, seed=config.seed + times)[1] for i in rows]
        yield torch.stack(made)


def _single(clips: Tensor, seed: int) -> Tensor:
    """One frame of every clip, shape (B, 3, 1, H, W)."""
    drawing = torch.Generator().manual_seed(seed)
    at = torch.randint(clips.shape[2], (len(clips),), generator=drawing)
    return torch.stack([clip[:, i : i + 1] for clip, i in zip(clips, at.tolist(), strict=True)])


def _fit(model: Any, batches: Iterator[Tensor], steps: int, config: Autoencoding) -> list[float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, steps)
    losses: list[float] = []
    for batch in track(batches, total=steps, description="teaching the autoencoder"):
        latent = model.encode(batch).latent_dist
        loss = mse_loss(model.decode(latent.sample()).sample, batch)
        loss = loss + config.kl * latent.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
