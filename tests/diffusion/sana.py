"""Sana, with its autoencoder of deep compression."""

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)

from tests.diffusion.encoders import gemma2, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


def sana():
    torch.manual_seed(0)
    return SanaPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma2(),
        transformer=transformer(sample_size=16),
        vae=vae(7),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def sana_sprint():
    torch.manual_seed(0)
    return SanaSprintPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma2(),
        transformer=transformer(
            sample_size=32, guidance_embeds=True, qk_norm="rms_norm_across_heads"
        ),
        vae=vae(8),
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
    )


def transformer(**changes):
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        **changes,
    )
    return widen(network)


def vae(levels):
    """More levels than the real one, so that the pixels of a bin are 7 x 9 latents."""
    channels = (4,) * (levels - 3) + (8,) * 3
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(0,) + (1,) * (levels - 1),
        decoder_layers_per_block=(0,) + (1,) * (levels - 1),
        encoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
        decoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
        scaling_factor=0.41407,
    )


PIPELINES = {
    "SanaPipeline": Tiny(
        sana, Denoising(steps=3, guidance=3.0, height=28, width=36, prompt_tokens=16)
    ),
    # It has an intermediate timestep, which excludes any other number of steps.
    "SanaSprintPipeline": Tiny(
        sana_sprint, Denoising(steps=2, guidance=4.5, height=28, width=36, prompt_tokens=16)
    ),
}
