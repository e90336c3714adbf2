"""PixArt-Alpha and PixArt-Sigma, whose networks predict a variance too."""

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.diffusion.encoders import t5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


_CHANNELS = (4, 4, 4, 4, 8, 8)
"""Two levels more than the real one, so that the 192 x 320 pixels of a bin are 6 x 10 latents."""
_SAMPLING = Denoising(steps=3, guidance=3.0, height=24, width=40, prompt_tokens=16)


def alpha():
    return PixArtAlphaPipeline(**_parts())


def sigma():
    return PixArtSigmaPipeline(**_parts())


def _parts():
    torch.manual_seed(0)
    levels = len(_CHANNELS)
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
        "vae": AutoencoderKL(
            block_out_channels=_CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            scaling_factor=0.13025,
        ),
        "scheduler": DPMSolverMultistepScheduler(),
    }


PIPELINES = {
    "PixArtAlphaPipeline": Tiny(alpha, _SAMPLING),
    "PixArtSigmaPipeline": Tiny(sigma, _SAMPLING),
}
