"""EasyAnimate."""

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def easyanimate():
    torch.manual_seed(0)
    words = video_parts.byte_tokenizer()
    return evaluated(
        EasyAnimatePipeline(
            tokenizer=words,
            text_encoder=video_parts.llama(words),
            transformer=vary(
                EasyAnimateTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=16,
                    in_channels=4,
                    out_channels=4,
                    patch_size=2,
                    sample_width=8,
                    sample_height=4,
                    num_layers=2,
                    mmdit_layers=1,
                    time_embed_dim=8,
                    text_embed_dim=pipelines.WIDTH,
                    add_norm_text_encoder=True,
                )
            ),
            vae=AutoencoderKLMagvit(
                latent_channels=4,
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                norm_num_groups=2,
                scaling_factor=0.7,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        )
    )


PIPELINES = {
    "EasyAnimatePipeline": Tiny(
        # Guided without a negative prompt, the pipeline fails.
        easyanimate,
        Denoising(steps=3, guidance=1.0, height=16, width=32, frames=5, fps=8.0),
    ),
}
