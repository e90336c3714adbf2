"""Wan 2.1 and 2.2."""

from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


PIPELINES = {
    "WanPipeline": Tiny(
        pipelines.wan_2_1,
        Denoising(steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=20),
    ),
}
