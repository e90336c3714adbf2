"""Allegro."""

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    DDIMScheduler,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def allegro():
    torch.manual_seed(0)
    pipeline = evaluated(
        AllegroPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                AllegroTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=12,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    cross_attention_dim=24,
                    sample_height=4,
                    sample_width=4,
                    sample_frames=2,
                    caption_channels=pipelines.WIDTH,
                )
            ),
            vae=AutoencoderKLAllegro(
                block_out_channels=(8, 8, 8),
                down_block_types=("AllegroDownBlock3D",) * 3,
                up_block_types=("AllegroUpBlock3D",) * 3,
                temporal_downsample_blocks=(True, True, False),
                temporal_upsample_blocks=(False, True, True),
                layers_per_block=1,
                norm_num_groups=2,
                scaling_factor=0.7,
            ),
            scheduler=DDIMScheduler(clip_sample=False, beta_schedule="linear"),
        )
    )
    # The VAE decodes only tiles of single videos; neither is part of a checkpoint.
    pipeline.vae.kernel, pipeline.vae.stride = (8, 16, 16), (4, 8, 8)
    pipeline.vae.enable_tiling()
    pipeline.vae.enable_slicing()
    return pipeline


PIPELINES = {
    "AllegroPipeline": Tiny(
        allegro,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=8, fps=8.0, prompt_tokens=20),
    ),
}
