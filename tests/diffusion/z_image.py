"""Z-Image."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from tests.diffusion.text import chat_processor, qwen3
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import varied
from unified_reward.policies import Denoising


def z_image():
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    pipeline = ZImagePipeline(
        tokenizer=tokenizer,
        text_encoder=qwen3(tokenizer),
        transformer=_transformer(),
        vae=pipelines.vae(scaling_factor=1.5, shift_factor=0.06),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return varied(pipeline)


def _transformer(**changes):
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
        **changes,
    )


PIPELINES = {
    "ZImagePipeline": Tiny(
        z_image, Denoising(steps=3, guidance=3.0, height=16, width=24, prompt_tokens=40)
    ),
}
