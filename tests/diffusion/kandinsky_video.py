"""Kandinsky 5 of videos."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from transformers import CLIPTextModel

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def kandinsky_5():
    """Kandinsky 5 with channels for a first frame, as its checkpoints have."""
    torch.manual_seed(0)
    words = video_parts.byte_tokenizer()
    return evaluated(
        Kandinsky5T2VPipeline(
            tokenizer=words,
            text_encoder=video_parts.llama(words),
            tokenizer_2=pipelines.tokenizer(),
            text_encoder_2=video_parts.long_clip(CLIPTextModel),
            transformer=vary(
                Kandinsky5Transformer3DModel(
                    in_visual_dim=4,
                    out_visual_dim=4,
                    in_text_dim=pipelines.WIDTH,
                    in_text_dim2=pipelines.WIDTH,
                    time_dim=16,
                    model_dim=16,
                    ff_dim=16,
                    num_text_blocks=1,
                    num_visual_blocks=2,
                    axes_dims=(4, 2, 2),
                    visual_cond=True,
                )
            ),
            vae=video_parts.hunyuan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        )
    )


PIPELINES = {
    "Kandinsky5T2VPipeline": Tiny(
        kandinsky_5,
        Denoising(
            steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=1000
        ),
    ),
}
