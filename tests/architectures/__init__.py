"""Random tiny checkpoints of every architecture that is tested, built without any download."""

from tests import tiny
from tests.architectures import experts, hybrids, tiles


ARCHITECTURES = {
    **tiny.ARCHITECTURES,
    **tiles.ARCHITECTURES,
    **hybrids.ARCHITECTURES,
    **experts.ARCHITECTURES,
}
