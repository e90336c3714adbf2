"""LTX-Video."""

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import MEAN, STD, evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def ltx():
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=2,
        scaling_factor=0.7,
    )
    vae.latents_mean.copy_(torch.tensor(MEAN))
    vae.latents_std.copy_(torch.tensor(STD))
    return evaluated(
        LTXPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                LTXVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    num_layers=2,
                    caption_channels=pipelines.WIDTH,
                )
            ),
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=1024,
                shift_terminal=0.1,
            ),
        )
    )


PIPELINES = {
    "LTXPipeline": Tiny(
        ltx,
        Denoising(steps=3, guidance=3.0, height=32, width=64, frames=9, fps=8.0, prompt_tokens=20),
    ),
}
