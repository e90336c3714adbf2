"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import (
    cohere,
    experts,
    fallbacks,
    gemma,
    glm,
    hybrids,
    internvl,
    llava,
    mistral,
    qwen,
    tiles,
)


_MODULES = (
    tiny,
    cohere,
    experts,
    fallbacks,
    gemma,
    glm,
    hybrids,
    internvl,
    llava,
    mistral,
    qwen,
    tiles,
)
ARCHITECTURES = {name: build for module in _MODULES for name, build in module.ARCHITECTURES.items()}
