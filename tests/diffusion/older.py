"""UNets under other guidance than that of Stable Diffusion, over pixels, and over tokens."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    IFPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMTextToImagePipeline,
    PNDMScheduler,
    SemanticStableDiffusionPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from transformers import T5Config, T5EncoderModel

from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.pipelines import CHANNELS, UNCHECKED, WIDTH
from unified_reward.policies import Denoising


def stable_diffusion_pndm():
    """Stable Diffusion 1 as published: noise prediction by PLMS steps."""
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(**pipelines.parts() | {"scheduler": scheduler}, **UNCHECKED)


def latent_consistency():
    """Distilled: the guidance is embedded, and each step adds noise to an estimate of the image."""
    parts = pipelines.parts()
    unet = pipelines.unet(time_cond_proj_dim=8)
    randomise(unet.time_embedding.cond_proj)
    parts |= {"unet": unet, "scheduler": LCMScheduler(beta_schedule="scaled_linear")}
    return LatentConsistencyModelPipeline(**parts, **UNCHECKED)


def stable_diffusion_sag():
    return StableDiffusionSAGPipeline(**pipelines.parts(), **UNCHECKED)


def panorama():
    """Windows of 64 latents at strides of 8, in units of 8 pixels whatever the VAE."""
    parts = pipelines.parts() | {"vae": eightfold_vae()}
    randomise(parts["text_encoder"])
    return StableDiffusionPanoramaPipeline(**parts, **UNCHECKED)


def semantic():
    return SemanticStableDiffusionPipeline(**pipelines.parts(), **UNCHECKED)


def deepfloyd_if():
    """Stage I of DeepFloyd IF: a UNet over pixels, which predicts the variance too."""
    torch.manual_seed(0)
    return IFPipeline(
        tokenizer=pipelines.tokenizer(),
        text_encoder=t5(),
        unet=unet_of_pixels(
            in_channels=3,
            out_channels=6,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            encoder_hid_dim=WIDTH,
            act_fn="gelu",
        ),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="epsilon",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def latent_diffusion():
    """Latent diffusion of text, whose VAE always has a factor of 8."""
    torch.manual_seed(0)
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(pipelines.tokenizer()),
            encoder_layers=1,
            encoder_ffn_dim=WIDTH,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=WIDTH,
        )
    )
    randomise(bert.eval())
    return LDMTextToImagePipeline(
        vqvae=eightfold_vae(),
        bert=bert,
        tokenizer=pipelines.tokenizer(),
        unet=pipelines.unet(),
        scheduler=DDIMScheduler(
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            clip_sample=False,
        ),
    )


def unet_of_pixels(**changes):
    """UNet of DeepFloyd IF and Kandinsky, which adds text to keys of its self-attention."""
    return UNet2DConditionModel(
        block_out_channels=CHANNELS,
        layers_per_block=1,
        sample_size=16,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=2,
        norm_num_groups=2,
        cross_attention_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
        **changes,
    )


def t5():
    return T5EncoderModel(
        T5Config(
            vocab_size=len(pipelines.tokenizer()),
            d_model=WIDTH,
            d_kv=8,
            d_ff=WIDTH,
            num_layers=1,
            num_heads=2,
            pad_token_id=1,
            eos_token_id=1,
        )
    ).eval()


def eightfold_vae():
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=0.7,
    )


def randomise(network, std=0.3):
    """Large random matrices, where a new network would give nearly the same output for all."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(0, std)


_PICTURE = Denoising(steps=3, guidance=3.0, height=16, width=24)
PIPELINES = {
    "StableDiffusionPipeline epsilon PNDM": Tiny(stable_diffusion_pndm, _PICTURE),
    "LatentConsistencyModelPipeline": Tiny(latent_consistency, _PICTURE),
    "StableDiffusionSAGPipeline": Tiny(
        stable_diffusion_sag, Denoising(steps=3, guidance=3.0, height=16, width=16)
    ),
    "StableDiffusionPanoramaPipeline": Tiny(
        panorama, Denoising(steps=3, guidance=3.0, height=8 * 8, width=72 * 8)
    ),
    "SemanticStableDiffusionPipeline": Tiny(semantic, _PICTURE),
    "IFPipeline": Tiny(deepfloyd_if, _PICTURE),
    "LDMTextToImagePipeline": Tiny(
        latent_diffusion, Denoising(steps=3, guidance=3.0, height=64, width=64)
    ),
}
