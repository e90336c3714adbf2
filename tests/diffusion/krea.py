"""Krea 2 and Nucleus-Image, with the VAE of Qwen-Image."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)
from transformers import Qwen3VLModel

from tests.diffusion.text import chat_processor, qwen3_vl, slim
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.editors import qwen_vae, varied
from unified_reward.policies import Denoising


def krea_2():
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    pipeline = Krea2Pipeline(
        tokenizer=tokenizer,
        text_encoder=qwen3_vl(tokenizer, kind=Qwen3VLModel),
        text_encoder_select_layers=(0, 1, 2),
        transformer=Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=32,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        **_parts(),
    )
    return varied(pipeline)


def nucleus():
    """Nucleus-Image: a mixture of experts; it reads layer -8 of its text encoder."""
    torch.manual_seed(0)
    processor = chat_processor()
    pipeline = NucleusMoEImagePipeline(
        processor=processor,
        text_encoder=qwen3_vl(processor.tokenizer, **slim(8)),
        transformer=NucleusMoEImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=5,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(4, 6, 6),
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=2.0,
        ),
        **_parts(),
    )
    return varied(pipeline)


def _parts():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": qwen_vae(), "scheduler": scheduler}


_SIZE = {"steps": 3, "guidance": 3.0, "height": 16, "width": 24}
PIPELINES = {
    "Krea2Pipeline": Tiny(krea_2, Denoising(**_SIZE, prompt_tokens=192)),
    "NucleusMoEImagePipeline": Tiny(nucleus, Denoising(**_SIZE)),
}
