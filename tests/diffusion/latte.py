"""Latte."""

import torch
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def latte():
    """Latte, which predicts a variance beside the noise; sides are multiples of 4 pixels."""
    torch.manual_seed(0)
    return evaluated(
        LattePipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                LatteTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    in_channels=4,
                    out_channels=8,
                    num_layers=1,
                    cross_attention_dim=16,
                    attention_bias=True,
                    sample_size=8,
                    patch_size=2,
                    activation_fn="gelu-approximate",
                    num_embeds_ada_norm=1000,
                    norm_type="ada_norm_single",
                    norm_elementwise_affine=False,
                    norm_eps=1e-6,
                    caption_channels=pipelines.WIDTH,
                    video_length=4,
                )
            ),
            vae=pipelines.vae(scaling_factor=0.7),
            scheduler=DDIMScheduler(clip_sample=False, beta_schedule="linear"),
        )
    )


PIPELINES = {
    "LattePipeline": Tiny(
        latte, Denoising(steps=3, guidance=3.0, height=16, width=16, frames=4, fps=8.0)
    ),
}
