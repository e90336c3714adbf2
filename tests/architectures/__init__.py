"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import cohere, gemma, glm, internvl, llava, mistral, qwen, tiles


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **cohere.ARCHITECTURES,
    **gemma.ARCHITECTURES,
    **glm.ARCHITECTURES,
    **internvl.ARCHITECTURES,
    **llava.ARCHITECTURES,
    **mistral.ARCHITECTURES,
    **qwen.ARCHITECTURES,
    **tiles.ARCHITECTURES,
}
