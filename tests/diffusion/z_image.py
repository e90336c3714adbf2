"""Z-Image."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

from tests.diffusion.text import chat_processor, qwen3
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import varied
from unified_reward.policies import Denoising


def z_image():
    return varied(ZImagePipeline(**_parts()))


def z_image_omni():
    """Z-Image Omni, which takes images too; without any, its SigLIP has no part."""
    config = Siglip2VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=4,
    )
    pipeline = ZImageOmniPipeline(
        **_parts(siglip_feat_dim=16),
        siglip=Siglip2VisionModel(config),
        siglip_processor=Siglip2ImageProcessor(patch_size=4, max_num_patches=16),
    )
    return varied(pipeline)


def _parts(**changes):
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    return {
        "tokenizer": tokenizer,
        "text_encoder": qwen3(tokenizer),
        "transformer": _transformer(**changes),
        "vae": pipelines.vae(scaling_factor=1.5, shift_factor=0.06),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


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


_SAMPLING = Denoising(steps=3, guidance=3.0, height=16, width=24, prompt_tokens=40)
PIPELINES = {
    "ZImagePipeline": Tiny(z_image, _SAMPLING),
    "ZImageOmniPipeline": Tiny(z_image_omni, _SAMPLING),
}
