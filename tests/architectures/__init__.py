"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import glm, qwen


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **glm.ARCHITECTURES,
    **qwen.ARCHITECTURES,
}
