"""Motif-Video."""

import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def motif_video():
    torch.manual_seed(0)
    return evaluated(
        MotifVideoPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                MotifVideoTransformer3DModel(
                    in_channels=9,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=1,
                    num_single_layers=1,
                    mlp_ratio=2.0,
                    text_embed_dim=pipelines.WIDTH,
                    rope_axes_dim=(4, 2, 2),
                )
            ),
            vae=video_parts.wan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            guider=ClassifierFreeGuidance(guidance_scale=6.0),
        )
    )


PIPELINES = {
    "MotifVideoPipeline": Tiny(
        motif_video,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=20),
    ),
}
