"""Random tiny diffusers pipelines, built without any download."""

import string

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    UMT5Config,
    UMT5EncoderModel,
)


CHANNELS = (8, 16)
TOKENS = 32
"""Tokens of a prompt that text encoders read, two of them its ends; a letter is one token."""
WIDTH = 16
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def pictures(folder):
    """Stable Diffusion; sides of pictures are multiples of 2 pixels."""
    return _save(stable_diffusion(), folder)


def stable_diffusion():
    return StableDiffusionPipeline(**parts(), **UNCHECKED)


def clips(folder):
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return _save(AnimateDiffPipeline(**parts(), motion_adapter=adapter), folder)


def from_pictures(folder):
    return _save(StableDiffusionImg2ImgPipeline(**parts(), **UNCHECKED), folder)


def sdxl(folder):
    """Stable Diffusion XL of v-prediction; sides of pictures are multiples of 2 pixels."""
    return _save(stable_diffusion_xl(), folder)


def stable_diffusion_xl():
    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        text_encoder=text(CLIPTextModel),
        text_encoder_2=text(CLIPTextModelWithProjection),
        unet=unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        vae=vae(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0]),
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_spacing="trailing"
        ),
        add_watermarker=False,
    )


def sd3(folder):
    """Stable Diffusion 3 without its third text encoder; sides are multiples of 4 pixels."""
    return _save(stable_diffusion_3(), folder)


def stable_diffusion_3():
    torch.manual_seed(0)
    return StableDiffusion3Pipeline(
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=None,
        text_encoder=text(CLIPTextModelWithProjection),
        text_encoder_2=text(CLIPTextModelWithProjection),
        text_encoder_3=None,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        ),
        vae=vae(scaling_factor=1.5, shift_factor=0.06),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def wan(folder):
    """Wan; sides of clips are multiples of 16 pixels, frames one more than a multiple of 4."""
    return _save(wan_2_1(), folder)


def wan_2_1():
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=1,
    )
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(config),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=8,
            ffn_dim=16,
            num_layers=2,
            rope_max_seq_len=32,
        ),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_temporal=4,
            scale_factor_spatial=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def tokenizer():
    signs = string.ascii_lowercase + string.digits
    words = ["<|startoftext|>", "<|endoftext|>", *signs, *(f"{one}</w>" for one in signs)]
    return CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=TOKENS)


def text(kind):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config)


def unet(**changes):
    return UNet2DConditionModel(
        block_out_channels=CHANNELS,
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=2,
        **{"cross_attention_dim": WIDTH} | changes,
    )


def vae(**changes):
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
        **{"latent_channels": 4} | changes,
    )


def parts():
    torch.manual_seed(0)
    return {
        "tokenizer": tokenizer(),
        "text_encoder": text(CLIPTextModel),
        "unet": unet(),
        "vae": vae(),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }


def _save(pipeline, folder):
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
