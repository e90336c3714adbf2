"""Random tiny diffusers pipelines, built without any download."""

import string

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


CHANNELS = (8, 16)


def pictures(folder):
    return _save(StableDiffusionPipeline(**_parts(), **_unsafe()), folder)


def clips(folder):
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return _save(AnimateDiffPipeline(**_parts(), motion_adapter=adapter), folder)


def from_pictures(folder):
    return _save(StableDiffusionImg2ImgPipeline(**_parts(), **_unsafe()), folder)


def _unsafe():
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _parts():
    torch.manual_seed(0)
    signs = string.ascii_lowercase + string.digits
    words = ["<|startoftext|>", "<|endoftext|>", *signs, *(f"{one}</w>" for one in signs)]
    tokenizer = CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=32)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        block_out_channels=CHANNELS,
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "unet": unet,
        "vae": vae,
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }


def _save(pipeline, folder):
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
