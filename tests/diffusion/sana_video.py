"""Sana of videos."""

import torch
from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def sana_video():
    """Sana, which samples at a size of about 480 pixels and shrinks that to the one given."""
    torch.manual_seed(0)
    return evaluated(
        SanaVideoPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                SanaVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=12,
                    num_layers=2,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=12,
                    cross_attention_dim=24,
                    caption_channels=pipelines.WIDTH,
                    sample_size=30,
                    rope_max_seq_len=32,
                )
            ),
            vae=video_parts.wan_vae(patch=8),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
            ),
        )
    )


PIPELINES = {
    "SanaVideoPipeline": Tiny(
        sana_video,
        Denoising(steps=3, guidance=3.0, height=32, width=64, frames=5, fps=8.0, prompt_tokens=20),
    ),
}
