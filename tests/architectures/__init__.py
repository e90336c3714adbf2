"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import cohere, gemma, internvl, llava, mistral


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **cohere.ARCHITECTURES,
    **gemma.ARCHITECTURES,
    **internvl.ARCHITECTURES,
    **llava.ARCHITECTURES,
    **mistral.ARCHITECTURES,
}
