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
