"""CogVideoX."""

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def cogvideox():
    torch.manual_seed(0)
    return evaluated(
        CogVideoXPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                CogVideoXTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=16,
                    in_channels=4,
                    out_channels=4,
                    time_embed_dim=8,
                    text_embed_dim=pipelines.WIDTH,
                    num_layers=2,
                    sample_width=8,
                    sample_height=4,
                    sample_frames=5,
                    max_text_seq_length=20,
                    use_rotary_positional_embeddings=True,
                )
            ),
            vae=AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 3,
                up_block_types=("CogVideoXUpBlock3D",) * 3,
                block_out_channels=(8, 8, 8),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                scaling_factor=0.7,
            ),
            scheduler=CogVideoXDDIMScheduler(
                prediction_type="v_prediction",
                rescale_betas_zero_snr=True,
                snr_shift_scale=3.0,
                set_alpha_to_one=True,
                timestep_spacing="trailing",
            ),
        )
    )


PIPELINES = {
    "CogVideoXPipeline": Tiny(
        cogvideox,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=20),
    ),
}
