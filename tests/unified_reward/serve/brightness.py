"""A judge of which every number is known: the mean grey of the first frame."""

import threading

import numpy as np

from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import MediaError
from unified_reward.core.probability import compare_scored
from unified_reward.core.samples import Video
from unified_reward.core.verdicts import Failed, Scale, Score, Scored


class Brightness(BaseJudge):
    """Scores from 0 (black) to 255 (white).

    Prompts act: "raise" raises, "nan" scores no number. ``gate`` holds the judge back while clear.
    """

    name = family = "brightness"
    order_free = True

    def __init__(self):
        self.batches = []
        """Prompts of each batch that it was asked."""
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, samples, *, orders=2, on_progress=None):
        self.batches.append([sample.prompt for sample in samples])
        assert self.gate.wait(30)
        if any(sample.prompt == "raise" for sample in samples):
            raise RuntimeError("out of memory")
        return [
            self.verdict_or_failed(lambda sample=sample: self._verdict(sample))
            for sample in samples
        ]

    def _verdict(self, sample):
        try:
            scored = [self._score(one, sample.prompt) for one in sample.candidates]
        except MediaError as error:
            return Failed.from_error(error)
        return scored[0] if len(scored) == 1 else compare_scored(*scored, temperature=255)

    def _score(self, candidate, prompt):
        is_video = isinstance(candidate, Video)
        image = (
            media.sample_frames(candidate, 1).images()[0]
            if is_video
            else media.open_image(candidate)
        )
        value = float("nan") if prompt == "nan" else float(np.asarray(image).mean())
        return Scored(Score(value, Scale(0, 255)))
