"""A judge whose scores follow from pixels, and media for it as trainers encode them."""

import base64
import io

import numpy as np
from PIL import Image

from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Video
from unified_reward.core.verdicts import Failed, Scale, Score, Scored, Unparsed


SCALE = Scale(0, 10)


class GreyLevel(BaseJudge):
    """Mean grey level of a candidate, of an edit its change, of an answer its length; 0 to 10.

    Prompts that begin with ``unreadable`` and ``broken`` get no score.
    """

    name = "grey"
    family = ""
    order_free = True

    def __init__(self, *, aspects_alone=False):
        self.asked_samples = []
        self._aspects_alone = aspects_alone

    def ask(self, samples, *, orders=2, on_progress=None):
        """Score every sample."""
        self.asked_samples += samples
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample):
        if sample.prompt.startswith("unreadable"):
            return Unparsed("no score in the answer")
        if sample.prompt.startswith("broken"):
            return Failed("the model gave nan")
        (candidate,) = sample.candidates
        if isinstance(candidate, str):
            return Scored(Score(len(candidate) / 10, SCALE), text="counted")
        value = _level(candidate)
        if sample.context:
            value = abs(value - _level(sample.context[0]))
        score = Score(value, SCALE)
        return Scored(None if self._aspects_alone else score, {"light": score, "tone": score})


def _level(medium):
    if isinstance(medium, Video):
        return float(media.sample_frames(medium, 2).pixels.mean()) / 25.5
    return float(np.asarray(media.open_image(medium)).mean()) / 25.5


def grey(level, file_format="PNG", **options):
    """Bytes of an image whose score is ``level``, 0 to 10."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (round(level * 25.5),) * 3).save(buffer, file_format, **options)
    return buffer.getvalue()


def grey_b64(level, file_format="PNG", **options):
    """Base64 of an image whose score is ``level``, 0 to 10."""
    return base64.b64encode(grey(level, file_format, **options)).decode()
