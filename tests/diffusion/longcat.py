"""LongCat-Image and Ovis-Image."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from transformers import Qwen3Model

from tests import tiny
from tests.diffusion.text import chat_processor, qwen3
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import varied
from unified_reward.policies import Denoising


_NETWORK = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}


def longcat():
    """LongCat-Image; its text encoder rewrites the prompt first, here in a few tokens."""
    torch.manual_seed(0)
    model, processor = tiny.qwen2_5_vl_parts()
    tiny.enlarge(model)
    model.generation_config.eos_token_id = list(range(0, len(processor.tokenizer), 2))
    pipeline = LongCatImagePipeline(
        tokenizer=processor.tokenizer,
        text_processor=processor,
        text_encoder=model,
        transformer=LongCatImageTransformer2DModel(
            in_channels=64, pooled_projection_dim=32, **_NETWORK
        ),
        vae=pipelines.vae(latent_channels=16, scaling_factor=1.5, shift_factor=0.06),
        scheduler=_scheduler(),
    )
    return varied(pipeline)


def ovis():
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    pipeline = OvisImagePipeline(
        tokenizer=tokenizer,
        text_encoder=qwen3(tokenizer, kind=Qwen3Model),
        transformer=OvisImageTransformer2DModel(in_channels=16, out_channels=16, **_NETWORK),
        vae=pipelines.vae(scaling_factor=1.5, shift_factor=0.06),
        scheduler=_scheduler(),
    )
    return varied(pipeline)


def _scheduler():
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


_SIZE = {"steps": 3, "guidance": 3.0, "height": 16, "width": 24}
PIPELINES = {
    "LongCatImagePipeline": Tiny(longcat, Denoising(**_SIZE)),
    "OvisImagePipeline": Tiny(ovis, Denoising(**_SIZE, prompt_tokens=160)),
}
