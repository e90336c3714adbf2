"""Tiny autoencoders of the microworld: 64 x 64 pixels to 8 x 8 latents and back.

There is one for images and one for videos, since no diffusers pipeline uses the same class for
both. Knows nothing of the denoisers that learn from the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanCausalConv3d,
    unpatchify,
)
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import conv2d, mse_loss

from unified_reward_lab.microworld import render
from unified_reward_lab.microworld.candidate_scenes import keyed_rng, random_scene_with_caption
from unified_reward_lab.microworld.render import SIDE_PX


VIDEO_FRAMES = 9
"""Frames of a video for Wan's autoencoder, 4 k + 1; the last of the 8 is repeated."""


@dataclass(frozen=True)
class AutoencoderTraining:
    """Training settings of an autoencoder."""

    steps: int
    batch_size: int = 16
    """Images per step."""
    lr: float = 2e-3
    """Peak learning rate; one cycle."""
    kl: float = 1e-6
    """Weight of the divergence of a latent from N(0, 1), in nats, beside the squared error."""
    seed: int = 0


def build_image_autoencoder() -> AutoencoderKL:
    """Build an image autoencoder with 4 latent channels and random weights; seed torch before."""
    # The annotations of diffusers allow tuples of length one only.
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


def build_video_autoencoder() -> AutoencoderKLWan:
    """Build an autoencoder of videos of 9 frames, as 5 latent frames of 8 channels; random weights.

    It works frame by frame: no frame depends on an earlier one, a latent frame encodes the second
    of two frames, and is decoded to both. So it can be trained on images.
    """
    channels, patch = 8, 2
    model = AutoencoderKLWan(
        base_dim=44,
        z_dim=channels,
        dim_mult=[1, 1, 1],
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
        for part in model.modules():
            if isinstance(part, WanCausalConv3d):
                part.weight[:, :, :-1] = 0
                if _is_temporal(part):
                    twice = part.out_channels // part.in_channels
                    same = torch.eye(part.in_channels).repeat(twice, 1)
                    part.weight.zero_()
                    part.weight[:, :, -1, 0, 0] = same
                    if part.bias is not None:
                        part.bias.zero_()
    return model


@contextmanager
def frame_by_frame(model: nn.Module) -> Iterator[None]:
    """Run a Wan autoencoder without its zero weights for earlier frames, at a third of the cost."""
    spatial: list[Any] = [
        part
        for part in model.modules()
        if isinstance(part, WanCausalConv3d) and not _is_temporal(part)
    ]
    for part in spatial:
        part.forward = partial(_convolve_frames, part)
    try:
        yield
    finally:
        for part in spatial:
            del part.forward


def _is_temporal(part: WanCausalConv3d) -> bool:
    return part.kernel_size == (3, 1, 1)


def _convolve_frames(part: WanCausalConv3d, videos: Tensor, _: Tensor | None = None) -> Tensor:
    frames = videos.transpose(1, 2).flatten(0, 1)
    margin = part.kernel_size[-1] // 2
    output = conv2d(frames, part.weight[:, :, -1], part.bias, padding=margin)
    return output.unflatten(0, (len(videos), -1)).transpose(1, 2)


def captioned_pixels(index: int, *, is_video: bool, seed: int) -> tuple[str, Tensor]:
    """Make a caption of the training split and the pixels it describes, in [-1, 1].

    Args:
        index: Index in the series.
        is_video: Whether to make a video.
        seed: Seed of the series.

    Returns:
        The caption, and pixels of shape (3, 64, 64), or (3, 9, 64, 64) for a video.
    """
    rng = keyed_rng("generator", is_video, seed, index)
    scene, caption = random_scene_with_caption(rng, split="train", is_video=is_video)
    pixels = render(scene, seed=int(rng.integers(2**32)))
    if is_video:
        pixels = np.concatenate([pixels, pixels[-1:]])
    return caption.text, torch.from_numpy(pixels).movedim(-1, 0).float() / 127.5 - 1


def train_autoencoder(model: Any, config: AutoencoderTraining) -> list[float]:
    """Train an autoencoder on images in place; one of videos on videos of one frame.

    Returns:
        Loss by step: squared error of values in [-1, 1] plus the weighted divergence.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    size, is_video = config.batch_size, isinstance(model, AutoencoderKLWan)
    losses: list[float] = []
    with frame_by_frame(model):
        for step in track(range(config.steps), description="training the autoencoder"):
            rows = range(step * size, step * size + size)
            images = [captioned_pixels(i, is_video=False, seed=config.seed + 1)[1] for i in rows]
            pixels = torch.stack(images)
            if is_video:
                pixels = pixels.unsqueeze(2)
            latent = model.encode(pixels).latent_dist
            loss = mse_loss(_decode_unclamped(model, latent.sample()), pixels)
            loss = loss + config.kl * latent.kl().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return losses


def _decode_unclamped(model: Any, latent: Tensor) -> Tensor:
    """Decode without Wan's clamp to [-1, 1], which has no gradient outside."""
    outputs: list[Tensor] = []
    hook = model.decoder.register_forward_hook(lambda *args: outputs.append(args[-1]))
    model.decode(latent)
    hook.remove()
    patch = model.config.get("patch_size")
    return unpatchify(outputs[0], patch) if patch else outputs[0]
