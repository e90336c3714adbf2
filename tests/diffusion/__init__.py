"""Random tiny pipelines of diffusers' families, by class name, built without any download."""

from importlib import import_module
from pkgutil import iter_modules

from tests.diffusion.tiny import Tiny


PIPELINES: dict[str, Tiny] = {
    name: pipeline
    for module in iter_modules(__path__, f"{__name__}.")
    for name, pipeline in getattr(import_module(module.name), "PIPELINES", {}).items()
}
"""A name is a class, or a class and a variant of it: ``"FluxPipeline schnell"``."""
FAMILIES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "FluxPipeline schnell",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
    "QwenImagePipeline",
    "ZImagePipeline",
    "SanaPipeline",
    "PixArtSigmaPipeline",
    "HunyuanVideo15Pipeline",
    "CogVideoXPipeline",
    "LTXPipeline",
    "WanPipeline",
    "WanPipeline 2.2",
    "WanPipeline 2.2 5B",
)
"""Pipelines that users align most, which fast tests go through; slow ones go through all."""
