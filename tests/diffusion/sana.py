"""Sana, with its autoencoder of deep compression."""

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)

from tests.diffusion.encoders import gemma2, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


_CHANNELS = (4, 4, 4, 4, 8, 8, 8)
"""One level more than the real one, so that the 448 x 576 pixels of a bin are 7 x 9 latents."""


def sana():
    torch.manual_seed(0)
    return SanaPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma2(),
        transformer=transformer(),
        vae=vae(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
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
        sample_size=16,
        **changes,
    )
    return widen(network)


def vae():
    levels = len(_CHANNELS)
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        encoder_block_out_channels=_CHANNELS,
        decoder_block_out_channels=_CHANNELS,
        encoder_layers_per_block=(0,) + (1,) * (levels - 1),
        decoder_layers_per_block=(0,) + (1,) * (levels - 1),
        encoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
        decoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
        scaling_factor=0.41407,
    )


PIPELINES = {
    "SanaPipeline": Tiny(
        sana, Denoising(steps=3, guidance=3.0, height=24, width=32, prompt_tokens=16)
    ),
}
