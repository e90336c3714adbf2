"""AnimateDiff on Stable Diffusion 1 and XL."""

import torch
from diffusers import AnimateDiffPipeline, AnimateDiffSDXLPipeline, DDIMScheduler, MotionAdapter

from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


_SAMPLING = Denoising(steps=3, guidance=3.0, height=16, width=16, frames=4, fps=8.0)


def animatediff():
    torch.manual_seed(0)
    return evaluated(AnimateDiffPipeline(**pipelines.parts(), motion_adapter=_adapter()))


def animatediff_sdxl():
    parts = pipelines.stable_diffusion_xl().components
    scheduler = DDIMScheduler(
        beta_schedule="linear", clip_sample=False, steps_offset=1, timestep_spacing="linspace"
    )
    return evaluated(
        AnimateDiffSDXLPipeline(**parts | {"scheduler": scheduler}, motion_adapter=_adapter())
    )


def _adapter():
    return vary(
        MotionAdapter(
            block_out_channels=pipelines.CHANNELS,
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
            use_motion_mid_block=False,
        )
    )


PIPELINES = {
    "AnimateDiffPipeline": Tiny(animatediff, _SAMPLING),
    "AnimateDiffSDXLPipeline": Tiny(animatediff_sdxl, _SAMPLING),
}
