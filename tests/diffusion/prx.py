"""PRX, of latents, and of pixels without any autoencoder."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)

from tests.diffusion.encoders import autoencoder, gemma2, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


def latents():
    """PRX, whose images of the bin of 192 x 320 pixels are 6 x 10 latents."""
    torch.manual_seed(0)
    return PRXPipeline(
        **_parts(in_channels=4, patch_size=2),
        vae=autoencoder(6, scaling_factor=0.3611, shift_factor=0.1159),
        default_sample_size=256,
    )


def pixels():
    """PRX of pixels, whose images of the bin of 896 x 1152 pixels are 14 x 18 patches."""
    torch.manual_seed(0)
    return PRXPixelPipeline(
        **_parts(in_channels=3, patch_size=64, bottleneck_size=8, resolution_embeds=True),
        default_sample_size=1024,
        prompt_max_tokens=16,
    )


def _parts(**changes):
    return {
        "tokenizer": tokenizer(),
        "text_encoder": gemma2(),
        "transformer": widen(
            PRXTransformer2DModel(
                context_in_dim=WIDTH,
                hidden_size=16,
                mlp_ratio=2.0,
                num_heads=2,
                depth=2,
                axes_dim=[4, 4],
                **changes,
            )
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


# With guidance they sample one image at a time: their timesteps have a length of 2.
PIPELINES = {
    "PRXPipeline": Tiny(latents, Denoising(steps=3, guidance=1.0, height=24, width=40)),
    "PRXPixelPipeline": Tiny(pixels, Denoising(steps=3, guidance=1.0, height=28, width=36)),
}
