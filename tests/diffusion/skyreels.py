"""SkyReels V2."""

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


_SAMPLING = Denoising(
    steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=20
)


def skyreels_v2():
    return evaluated(SkyReelsV2Pipeline(**_parts()))


def skyreels_v2_diffusion_forcing():
    return evaluated(SkyReelsV2DiffusionForcingPipeline(**_parts()))


def _parts():
    torch.manual_seed(0)
    return {
        "tokenizer": pipelines.tokenizer(),
        "text_encoder": video_parts.t5(),
        "transformer": vary(
            SkyReelsV2Transformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=pipelines.WIDTH,
                freq_dim=8,
                ffn_dim=16,
                num_layers=2,
                rope_max_seq_len=32,
            )
        ),
        "vae": video_parts.wan_vae(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
    }


PIPELINES = {
    "SkyReelsV2Pipeline": Tiny(skyreels_v2, _SAMPLING),
    "SkyReelsV2DiffusionForcingPipeline": Tiny(skyreels_v2_diffusion_forcing, _SAMPLING),
}
