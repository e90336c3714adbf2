"""Perturbed-attention guidance: pipelines of other modules, with a third part in each batch."""

import diffusers
from diffusers import AnimateDiffPipeline, MotionAdapter

from tests import diffusion
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.pipelines import CHANNELS
from unified_reward.policies import Denoising


def perturbed(name, build=None):
    """Build a pipeline from that of the same name without PAG.

    Args:
        name: Class of the pipeline.
        build: Builds the one without PAG; default that of ``tests.diffusion.PIPELINES``.
    """

    def pag():
        plain = (build or diffusion.PIPELINES[name.replace("PAG", "")].build)()
        return getattr(diffusers, name).from_pipe(plain)

    return pag


def animate_diff():
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return AnimateDiffPipeline(**pipelines.parts(), motion_adapter=adapter)


_PICTURE = Denoising(steps=3, guidance=3.0, height=16, width=24)
_BINNED = Denoising(steps=3, guidance=3.0, height=24, width=40, prompt_tokens=16)
_CLIP = Denoising(steps=3, guidance=3.0, height=16, width=16, frames=2, fps=8.0)
_STANDARD = Denoising(steps=3, guidance=3.0, height=1024, width=768)
_SD3 = Denoising(steps=3, guidance=3.0, height=16, width=24, prompt_tokens=20)
PIPELINES = {
    "StableDiffusionPAGPipeline": Tiny(perturbed("StableDiffusionPAGPipeline"), _PICTURE),
    "StableDiffusionXLPAGPipeline": Tiny(perturbed("StableDiffusionXLPAGPipeline"), _PICTURE),
    "StableDiffusion3PAGPipeline": Tiny(perturbed("StableDiffusion3PAGPipeline"), _SD3),
    "AnimateDiffPAGPipeline": Tiny(perturbed("AnimateDiffPAGPipeline", animate_diff), _CLIP),
    "PixArtSigmaPAGPipeline": Tiny(perturbed("PixArtSigmaPAGPipeline"), _BINNED),
    "SanaPAGPipeline": Tiny(perturbed("SanaPAGPipeline"), _BINNED),
    "HunyuanDiTPAGPipeline": Tiny(perturbed("HunyuanDiTPAGPipeline"), _STANDARD),
    "KolorsPAGPipeline": Tiny(perturbed("KolorsPAGPipeline"), _PICTURE),
}
