"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import qwen
from tests.architectures import tiles
from tests.architectures import glm, qwen


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **glm.ARCHITECTURES,
    **qwen.ARCHITECTURES,
    **tiles.ARCHITECTURES,
}
