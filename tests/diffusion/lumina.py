"""Lumina-Next and Lumina-Image 2.0, whose time runs from 0 to 1."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
)

from tests.diffusion.encoders import autoencoder, gemma, gemma2, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


def lumina_2():
    torch.manual_seed(0)
    return Lumina2Pipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma2(),
        transformer=widen(
            Lumina2Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                hidden_size=24,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=8,
                axes_dim_rope=(4, 4, 4),
                axes_lens=(300, 32, 32),
                cap_feat_dim=WIDTH,
            )
        ),
        vae=autoencoder(4, scaling_factor=0.3611, shift_factor=0.1159),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def lumina_next():
    torch.manual_seed(0)
    transformer = widen(
        LuminaNextDiT2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=16,
            num_layers=2,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            cross_attention_dim=WIDTH,
        )
    )
    with torch.no_grad():
        # It is used nowhere, and left uninitialised.
        transformer.pad_token.zero_()
        for layer in transformer.layers:
            layer.gate.fill_(0.5)
    return LuminaPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma(),
        transformer=transformer,
        vae=autoencoder(4, scaling_factor=0.13025),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )


PIPELINES = {
    "LuminaPipeline": Tiny(lumina_next, Denoising(steps=3, guidance=4.0, height=48, width=64)),
    "Lumina2Pipeline": Tiny(
        lumina_2, Denoising(steps=3, guidance=4.0, height=48, width=64, prompt_tokens=192)
    ),
}
