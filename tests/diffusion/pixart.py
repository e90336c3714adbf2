"""PixArt-Alpha and PixArt-Sigma, whose networks predict a variance too."""

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.diffusion.encoders import autoencoder, t5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


_SAMPLING = Denoising(steps=3, guidance=3.0, height=24, width=40, prompt_tokens=16)
"""The bin of this ratio has 192 x 320 pixels, and two levels more than usual make that 6 x 10."""


def alpha():
    return PixArtAlphaPipeline(**_parts())


def sigma():
    return PixArtSigmaPipeline(**_parts())


def _parts():
    torch.manual_seed(0)
    return {
        "tokenizer": tokenizer(),
        "text_encoder": t5(),
        "transformer": widen(
            PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                cross_attention_dim=16,
                caption_channels=WIDTH,
                sample_size=32,
                patch_size=2,
            )
        ),
        "vae": autoencoder(6, scaling_factor=0.13025),
        "scheduler": DPMSolverMultistepScheduler(),
    }


PIPELINES = {
    "PixArtAlphaPipeline": Tiny(alpha, _SAMPLING),
    "PixArtSigmaPipeline": Tiny(sigma, _SAMPLING),
}
