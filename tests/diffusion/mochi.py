"""Mochi."""

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def mochi():
    """Mochi; sides are multiples of 16 pixels, frames one more than a multiple of 6."""
    torch.manual_seed(0)
    return evaluated(
        MochiPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                MochiTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=2,
                    pooled_projection_dim=8,
                    in_channels=12,
                    text_embed_dim=pipelines.WIDTH,
                    time_embed_dim=8,
                    max_sequence_length=20,
                )
            ),
            vae=AutoencoderKLMochi(
                encoder_block_out_channels=(32, 32, 32, 32),
                decoder_block_out_channels=(32, 32, 32, 32),
                layers_per_block=(1, 1, 1, 1, 1),
                add_attention_block=(False,) * 5,
                scaling_factor=0.7,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        )
    )


PIPELINES = {
    "MochiPipeline": Tiny(
        mochi,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=7, fps=8.0, prompt_tokens=20),
    ),
}
