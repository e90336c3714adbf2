"""Helios."""

import torch
from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def helios():
    """Helios; a clip of at most 33 frames is one chunk, sampled in one loop."""
    torch.manual_seed(0)
    return evaluated(
        HeliosPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                HeliosTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=12,
                    in_channels=4,
                    out_channels=4,
                    text_dim=pipelines.WIDTH,
                    freq_dim=8,
                    ffn_dim=16,
                    num_layers=2,
                    rope_dim=(4, 4, 4),
                )
            ),
            vae=video_parts.wan_vae(),
            scheduler=HeliosScheduler(stages=1, stage_range=[0, 1], gamma=1 / 3),
        )
    )


PIPELINES = {
    "HeliosPipeline": Tiny(
        helios,
        Denoising(steps=3, guidance=3.0, height=32, width=32, frames=33, fps=8.0, prompt_tokens=20),
    ),
}
