"""Wan 2.1 and 2.2."""

from diffusers import UniPCMultistepScheduler, WanPipeline

from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


_SAMPLING = Denoising(
    steps=3, guidance=3.0, height=16, width=32, frames=5, fps=8.0, prompt_tokens=20
)


def wan_2_1():
    return evaluated(pipelines.wan_2_1())


def wan_2_2():
    """Wan 2.2 A14B: of three steps the first is the first transformer's."""
    parts = pipelines.wan_2_1().components
    second = vary(type(parts["transformer"])(**parts["transformer"].config))
    return evaluated(
        WanPipeline(
            **parts | {"transformer_2": second, "scheduler": _scheduler()}, boundary_ratio=0.875
        )
    )


def wan_2_2_5b():
    """Wan 2.2 5B: a timestep per token."""
    parts = pipelines.wan_2_1().components
    return evaluated(WanPipeline(**parts | {"scheduler": _scheduler()}, expand_timesteps=True))


def _scheduler():
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


PIPELINES = {
    "WanPipeline": Tiny(wan_2_1, _SAMPLING),
    "WanPipeline 2.2": Tiny(wan_2_2, _SAMPLING),
    "WanPipeline 2.2 5B": Tiny(wan_2_2_5b, _SAMPLING),
}
