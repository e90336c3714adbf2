"""HunyuanImage 2.1, with its guider or distilled, and Hunyuan-DiT, with its DDPM scheduler."""

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from transformers import BertConfig, BertModel, ByT5Tokenizer

from tests.diffusion.encoders import autoencoder, qwen2_5_vl, t5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


def image():
    """HunyuanImage, guided by a component of the pipeline and not by an argument."""
    torch.manual_seed(0)
    guider = AdaptiveProjectedMixGuidance(
        guidance_scale=3.5, adaptive_projected_guidance_start_step=5
    )
    return HunyuanImagePipeline(**_image_parts(), guider=guider, ocr_guider=None)


def image_distilled():
    """HunyuanImage of mean flow: its network knows the guidance and the next timestep."""
    torch.manual_seed(0)
    parts = _image_parts(guidance_embeds=True, use_meanflow=True)
    return HunyuanImagePipeline(**parts, guider=None, ocr_guider=None)


def dit():
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        pad_token_id=1,
    )
    return HunyuanDiTPipeline(
        tokenizer=tokenizer(),
        text_encoder=widen(BertModel(bert)),
        tokenizer_2=tokenizer(),
        text_encoder_2=t5(),
        transformer=widen(
            HunyuanDiT2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                in_channels=4,
                patch_size=16,
                sample_size=128,
                hidden_size=16,
                num_layers=4,
                cross_attention_dim=WIDTH,
                cross_attention_dim_t5=WIDTH,
                pooled_projection_dim=WIDTH,
            ),
            std=0.15,
        ),
        vae=autoencoder(4, mid_block_add_attention=False, scaling_factor=0.13025),
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.03,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _image_parts(**changes):
    """Parts whose network has no projection of glyphs: its width of 2048 is fixed."""
    return {
        "tokenizer": tokenizer(),
        "text_encoder": qwen2_5_vl(),
        "tokenizer_2": ByT5Tokenizer(),
        "text_encoder_2": t5(vocab_size=len(ByT5Tokenizer())),
        "transformer": widen(
            HunyuanImageTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                mlp_ratio=2,
                text_embed_dim=WIDTH,
                rope_axes_dim=(4, 4),
                **changes,
            )
        ),
        "vae": AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            spatial_compression_ratio=2,
            sample_size=64,
            scaling_factor=0.75289,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


PIPELINES = {
    "HunyuanImagePipeline": Tiny(image, Denoising(steps=3, height=12, width=16)),
    "HunyuanImagePipeline distilled": Tiny(
        image_distilled, Denoising(steps=3, height=12, width=16)
    ),
    # Whatever is requested, the images have the nearest of its ten supported shapes.
    "HunyuanDiTPipeline": Tiny(dit, Denoising(steps=3, guidance=3.0, height=1024, width=768)),
}
