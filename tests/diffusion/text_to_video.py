"""ModelScope's text-to-video, the first of diffusers."""

import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from transformers import CLIPTextModel

from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def text_to_video():
    torch.manual_seed(0)
    return evaluated(
        TextToVideoSDPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=pipelines.text(CLIPTextModel),
            unet=vary(
                UNet3DConditionModel(
                    block_out_channels=pipelines.CHANNELS,
                    layers_per_block=1,
                    sample_size=8,
                    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                    cross_attention_dim=pipelines.WIDTH,
                    attention_head_dim=4,
                    norm_num_groups=2,
                )
            ),
            vae=pipelines.vae(scaling_factor=0.7),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        )
    )


PIPELINES = {
    "TextToVideoSDPipeline": Tiny(
        text_to_video, Denoising(steps=3, guidance=3.0, height=16, width=16, frames=4, fps=8.0)
    ),
}
