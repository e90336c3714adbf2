"""Bria 3.2 and FIBO."""

import torch
from diffusers import (
    AutoencoderKLWan,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from tests import tiny
from tests.diffusion.text import chat_processor, slim
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import flux_parts, varied
from unified_reward.policies import Denoising


_NETWORK = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": [4, 6, 6],
}


def bria():
    parts = flux_parts()
    return varied(
        BriaPipeline(
            tokenizer=parts["tokenizer_2"],
            text_encoder=parts["text_encoder_2"],
            transformer=BriaTransformer2DModel(
                in_channels=16, joint_attention_dim=pipelines.WIDTH, **_NETWORK
            ),
            vae=parts["vae"],
            scheduler=parts["scheduler"],
        )
    )


def fibo():
    """FIBO; 16 pixels are one latent, and an empty prompt is token 128000."""
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    settings = tiny.text_config(tokenizer) | slim(1) | {"vocab_size": 128001}
    text_encoder = SmolLM3ForCausalLM(SmolLM3Config(**settings, tie_word_embeddings=True))
    pipeline = BriaFiboPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny.enlarge(text_encoder),
        transformer=BriaFiboTransformer2DModel(
            in_channels=4, joint_attention_dim=2 * 8, text_encoder_dim=8, **_NETWORK
        ),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    return varied(pipeline)


PIPELINES = {
    "BriaPipeline": Tiny(
        bria, Denoising(steps=3, guidance=3.0, height=16, width=24, prompt_tokens=20)
    ),
    "BriaFiboPipeline": Tiny(
        fibo, Denoising(steps=3, guidance=3.0, height=32, width=48, prompt_tokens=64)
    ),
}
