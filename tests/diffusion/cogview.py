"""CogView 4, and CogView 3 Plus with a DDIM or a stochastic multistep scheduler."""

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.diffusion.encoders import autoencoder, glm, t5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


_SAMPLING = Denoising(steps=3, guidance=3.5, height=32, width=48, prompt_tokens=32)


def cogview_4():
    torch.manual_seed(0)
    return CogView4Pipeline(
        tokenizer=tokenizer(),
        text_encoder=glm(),
        transformer=widen(
            CogView4Transformer2DModel(
                **_SIZES, attention_head_dim=8, num_layers=2, rope_axes_dim=(16, 16)
            )
        ),
        vae=autoencoder(3, scaling_factor=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )


def cogview_3_plus():
    return _cogview_3_plus(CogVideoXDDIMScheduler)


def cogview_3_plus_dpm():
    return _cogview_3_plus(CogVideoXDPMScheduler)


_SIZES = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 16,
    "condition_dim": 4,
    "sample_size": 8,
}


def _cogview_3_plus(scheduler):
    torch.manual_seed(0)
    return CogView3PlusPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        transformer=widen(
            CogView3PlusTransformer2DModel(
                **_SIZES, attention_head_dim=8, num_layers=2, pos_embed_max_size=8
            )
        ),
        vae=autoencoder(3, scaling_factor=1.15258426),
        scheduler=scheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
            snr_shift_scale=4.0,
        ),
    )


PIPELINES = {
    "CogView4Pipeline": Tiny(cogview_4, _SAMPLING),
    "CogView3PlusPipeline": Tiny(cogview_3_plus, _SAMPLING),
    "CogView3PlusPipeline dpm": Tiny(cogview_3_plus_dpm, _SAMPLING),
}
