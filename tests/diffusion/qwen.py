"""Qwen-Image."""

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
)

from tests.diffusion.text import chat_processor, qwen3_vl
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.editors import qwen_parts, varied
from unified_reward.policies import Denoising


def qwen_image():
    return varied(QwenImagePipeline(**qwen_parts()))


def qwen_image_2_1():
    """Qwen-Image 2.1; it makes images of 4 channels, and 16 pixels are one latent."""
    torch.manual_seed(0)
    processor = chat_processor()
    pipeline = QwenImage21Pipeline(
        processor=processor,
        text_encoder=qwen3_vl(processor.tokenizer),
        transformer=QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    return varied(pipeline)


PIPELINES = {
    "QwenImagePipeline": Tiny(qwen_image, Denoising(steps=3, guidance=3.0, height=16, width=24)),
    "QwenImage21Pipeline": Tiny(
        qwen_image_2_1, Denoising(steps=3, guidance=3.0, height=32, width=64)
    ),
}
