"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import qwen
from tests.architectures import tiles


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **qwen.ARCHITECTURES,
    **tiles.ARCHITECTURES,
}
