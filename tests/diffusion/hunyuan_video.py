"""HunyuanVideo 1.0 and 1.5."""

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import ByT5Tokenizer, CLIPTextModel

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def hunyuan_video():
    torch.manual_seed(0)
    words = video_parts.byte_tokenizer()
    return evaluated(
        HunyuanVideoPipeline(
            tokenizer=words,
            text_encoder=video_parts.llama(words),
            tokenizer_2=pipelines.tokenizer(),
            text_encoder_2=video_parts.long_clip(CLIPTextModel),
            transformer=vary(
                HunyuanVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=1,
                    num_single_layers=1,
                    num_refiner_layers=1,
                    mlp_ratio=2.0,
                    text_embed_dim=pipelines.WIDTH,
                    pooled_projection_dim=pipelines.WIDTH,
                    rope_axes_dim=(4, 2, 2),
                )
            ),
            vae=video_parts.hunyuan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    )


def hunyuan_video_1_5():
    """HunyuanVideo 1.5; its projection of glyphs alone has 4 M weights."""
    torch.manual_seed(0)
    words, glyphs = video_parts.byte_tokenizer(), ByT5Tokenizer(extra_ids=0)
    pipeline = evaluated(
        HunyuanVideo15Pipeline(
            tokenizer=words,
            text_encoder=video_parts.qwen2_5_vl_text(words),
            tokenizer_2=glyphs,
            text_encoder_2=video_parts.t5(glyphs),
            transformer=vary(
                HunyuanVideo15Transformer3DModel(
                    in_channels=9,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=1,
                    num_refiner_layers=1,
                    mlp_ratio=2.0,
                    text_embed_dim=pipelines.WIDTH,
                    text_embed_2_dim=pipelines.WIDTH,
                    image_embed_dim=pipelines.WIDTH,
                    rope_axes_dim=(4, 2, 2),
                    task_type="t2v",
                )
            ),
            vae=AutoencoderKLHunyuanVideo15(
                latent_channels=4,
                block_out_channels=(8, 8, 8),
                layers_per_block=1,
                spatial_compression_ratio=4,
                temporal_compression_ratio=4,
                scaling_factor=0.7,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
            guider=ClassifierFreeGuidance(guidance_scale=6.0),
        )
    )
    # The VAE fails on a batch of two videos.
    pipeline.vae.enable_slicing()
    # Not part of the checkpoint: a loaded pipeline is slower.
    pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length = 420, 8
    pipeline.vision_num_semantic_tokens = 4
    return pipeline


PIPELINES = {
    "HunyuanVideoPipeline": Tiny(
        hunyuan_video,
        Denoising(steps=3, guidance=4.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=440),
    ),
    "HunyuanVideo15Pipeline": Tiny(
        hunyuan_video_1_5,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0),
    ),
}
