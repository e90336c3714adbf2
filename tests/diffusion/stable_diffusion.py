"""Stable Diffusion 1, 2, XL and 3."""

from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


PIPELINES = {
    "StableDiffusionPipeline": Tiny(
        pipelines.stable_diffusion, Denoising(steps=3, guidance=3.0, height=16, width=24)
    ),
    "StableDiffusionXLPipeline": Tiny(
        pipelines.stable_diffusion_xl, Denoising(steps=3, guidance=3.0, height=16, width=24)
    ),
    "StableDiffusion3Pipeline": Tiny(
        pipelines.stable_diffusion_3,
        Denoising(steps=3, guidance=3.0, height=16, width=24, prompt_tokens=20),
    ),
}
