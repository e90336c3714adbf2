"""AuraFlow."""

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.diffusion.encoders import umt5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer, vae
from unified_reward.policies import Denoising


def aura_flow():
    torch.manual_seed(0)
    return AuraFlowPipeline(
        tokenizer=tokenizer(),
        text_encoder=umt5(),
        transformer=widen(
            AuraFlowTransformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                caption_projection_dim=16,
                pos_embed_max_size=64,
            ),
            std=0.2,
        ),
        vae=vae(scaling_factor=0.13025),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


PIPELINES = {
    "AuraFlowPipeline": Tiny(
        aura_flow, Denoising(steps=3, guidance=3.5, height=16, width=32, prompt_tokens=16)
    ),
}
