"""Every class of diffusers that generates images or videos from a prompt, and why some are outside.

What a signature leaves open was read in the source of diffusers 0.42.1: an input with a default may
be needed nevertheless, and a source image or video may be an option.
"""

import inspect

import diffusers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from tests import diffusion
from unified_reward.policies.diffusion import _MEDIA_INPUTS, _is_text_to_media


_NEEDS = {
    "a control image": (
        *("CogView4ControlPipeline", "FluxControlNetPipeline", "FluxControlPipeline"),
        *("HunyuanDiTControlNetPipeline", "QwenImageControlNetPipeline", "SanaControlNetPipeline"),
        *("StableDiffusion3ControlNetPipeline", "StableDiffusionControlNetPAGPipeline"),
        *("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPAGPipeline"),
        *("StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetUnionPipeline"),
        "ZImageControlNetPipeline",
    ),
    "a control image and a mask": (
        *("QwenImageControlNetInpaintPipeline", "StableDiffusion3ControlNetInpaintingPipeline"),
        "ZImageControlNetInpaintPipeline",
    ),
    "control frames": (
        *("AnimateDiffControlNetPipeline", "AnimateDiffSparseControlNetPipeline"),
        "CogVideoXFunControlPipeline",
    ),
    "boxes and their phrases": (
        *("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline"),
    ),
    "embeddings of an edit's source and target": ("StableDiffusionPix2PixZeroPipeline",),
    "indices of the prompt's tokens": ("StableDiffusionAttendAndExcitePipeline",),
    "latents and keyframes of LTX2DFRPipeline": ("LTX2DFRTemporalRefinePipeline",),
}
"""Inputs without which a call fails, though most signatures have a default for them."""
_MEDIA_AS_AN_OPTION = (
    *(
        "AnyFlowFARPipeline",
        "AnyFlowPipeline",
        "BriaFibo2Pipeline",
        "Cosmos2_5_PredictBasePipeline",
    ),
    *("Cosmos3OmniPipeline", "DreamLiteMobilePipeline", "DreamLitePipeline"),
    *("EasyAnimateInpaintPipeline", "Flux2KleinKVPipeline", "JoyImageEditPipeline"),
    *("JoyImageEditPlusPipeline", "Kandinsky6TI2VAPipeline", "LTXConditionPipeline"),
    *("UniDiffuserPipeline", "WanVACEPipeline"),
)
"""These generate from a prompt alone, but nothing in their signature says so."""
_NO_SIZE = ("UnCLIPPipeline", "VQDiffusionPipeline")
_OTHER = {
    "AmusedPipeline": "takes one generator for a batch",
    "Cosmos2TextToImagePipeline": "needs the package cosmos_guardrail",
    "CosmosTextToWorldPipeline": "needs the package cosmos_guardrail",
    "EasyAnimateControlPipeline": "not examined",
    "GlmImagePipeline": "not examined: a language model that samples extends its prompts",
    "HeliosPyramidPipeline": "not examined: it denoises in stages of different sizes",
    "Kandinsky5T2IPipeline": "not examined: its images have at least 640 x 1408 pixels",
    "LTX2ConditionPipeline": "not examined: as LTX2Pipeline",
    "LTX2DFRPipeline": "not examined: as LTX2Pipeline",
    "LTX2InContextPipeline": "not examined: as LTX2Pipeline",
    "LattePipeline": "masks the embeddings of a prompt alone, and not those of a batch",
    "LTX2HDRPipeline": "returns linear light without an upper bound, not RGB",
    "LTXI2VLongMultiPromptPipeline": "reads a list of prompts as the scenes of a single clip",
    "ShapEPipeline": "returns views of a solid",
    "StableCascadeCombinedPipeline": "diffusers cannot load the autoencoder of its folders",
    "StableDiffusionLDM3DPipeline": "returns images and their depths apart",
    "StableDiffusionPanoramaPipeline": "mixes up the prompts of a batch with its negative ones",
    "TextToVideoZeroPipeline": "returns frames as if they were images",
    "TextToVideoZeroSDXLPipeline": "returns frames as if they were images",
    "WuerstchenPriorPipeline": "returns embeddings for another pipeline",
}


def text_pipelines() -> dict[str, str]:
    """Pipelines that generate images or videos from a prompt, and those that seem to.

    Returns:
        By class name, why it is outside; empty where a random tiny pipeline should exist.
    """
    return {name: _why_outside(name, kind) for name, kind in _pipelines().items()}


def missing() -> set[str]:
    """Pipelines inside, of which there is no random tiny one."""
    inside = {name for name, reason in text_pipelines().items() if not reason}
    return inside - {name.partition(" ")[0] for name in diffusion.PIPELINES}


def unknown() -> set[str]:
    """Names of this module that diffusers has not."""
    needing = {name for names in _NEEDS.values() for name in names}
    return {*needing, *_MEDIA_AS_AN_OPTION, *_NO_SIZE, *_OTHER} - _pipelines().keys()


def _pipelines():
    """Classes by name, without those that cannot be imported here."""
    known = {*_MEDIA_AS_AN_OPTION, *_NO_SIZE, *_OTHER}
    known |= {name for names in _NEEDS.values() for name in names}
    found = {}
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name)
        if not isinstance(kind, type) or not issubclass(kind, DiffusionPipeline):
            continue
        if name in known or _is_text_to_media(kind, inspect.signature(kind.__call__).parameters):
            found[name] = kind
    return found


def _why_outside(name, kind):
    takes = inspect.signature(kind.__call__).parameters
    reasons = [f"needs {what}" for what, names in _NEEDS.items() if name in names]
    if name in _MEDIA_AS_AN_OPTION and not _is_text_to_media(kind, takes):
        media = " and ".join(f"`{one}`" for one in takes if one in {*_MEDIA_INPUTS, "video"})
        reasons.append(f"takes {media} too, and the policy cannot tell an option from a need")
    if name in _NO_SIZE:
        reasons.append("takes no size")
    if name in _OTHER:
        reasons.append(_OTHER[name])
    return "; ".join([*_deprecated(kind), *reasons])


def _deprecated(kind):
    """Deprecated classes stand in a package of that name, and most name their last version."""
    version = getattr(kind, "_last_supported_version", None)
    if version:
        return [f"deprecated by diffusers after {version}"]
    return ["deprecated by diffusers"] if ".deprecated." in kind.__module__ else []
