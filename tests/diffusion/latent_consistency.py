"""Latent consistency models, whose network knows the guidance."""

import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler

from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import UNCHECKED, parts, unet
from unified_reward.policies import Denoising


def latent_consistency():
    own = parts()
    torch.manual_seed(0)
    own |= {
        "unet": unet(time_cond_proj_dim=8),
        "scheduler": LCMScheduler(prediction_type="epsilon"),
    }
    return LatentConsistencyModelPipeline(**own, **UNCHECKED)


PIPELINES = {
    "LatentConsistencyModelPipeline": Tiny(
        latent_consistency, Denoising(steps=3, guidance=5.0, height=16, width=24)
    ),
}
