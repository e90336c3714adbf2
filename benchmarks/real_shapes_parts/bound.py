"""Seconds of the bound: each image encoded once, each distinct prefix prefilled once.

The same model is timed at shapes that suit it, by turns with what is measured: 8 images in a pass
of the vision tower, and prompts of plain text without padding or cache. Seconds of a pass are
fitted by those of a token and those of a pair of tokens that attention looks at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.real_shapes_parts.tokens import Distinct


class Pass(NamedTuple):
    """A timed pass over prompts without images."""

    rows: int
    tokens: int
    """Tokens of a row."""
    seconds: float

    @property
    def counts(self) -> tuple[int, int]:
        """Tokens, and pairs of tokens."""
        return self.rows * self.tokens, self.rows * self.tokens * (self.tokens + 1) // 2


class Timed(NamedTuple):
    """Passes at one time of the run."""

    passes: list[Pass]
    image_s: float
    """Seconds of the vision tower for an image."""


class Rates:
    """Times passes of a model, and gives the seconds of counted tokens by them."""

    def __init__(self, vlm: Any, images: Sequence[Any], shapes: Sequence[tuple[int, int]]) -> None:
        """Time passes of a model.

        Args:
            vlm: A local judge's model.
            images: PIL images of one pass of the vision tower.
            shapes: Rows and tokens of passes of the language model.
        """
        self._model = vlm.model
        self._tower = vlm.encoder.run_tower
        processor = vlm.chat.processor
        self._pixels = processor.image_processor([*images], return_tensors="pt")
        self._n_images = len(images)
        self._shapes = shapes
        self._all: list[Timed] = []
        self.time()
        self._all.clear()

    @torch.inference_mode()
    def time(self) -> Timed:
        """Time one pass of each shape."""
        passes: list[Pass] = []
        for rows, tokens in self._shapes:
            ids = torch.randint(300, 600, (rows, tokens))
            started = time.process_time()
            self._model(input_ids=ids, use_cache=False, logits_to_keep=1)
            passes.append(Pass(rows, tokens, time.process_time() - started))
        started = time.process_time()
        self._tower(self._pixels)
        timed = Timed(passes, (time.process_time() - started) / self._n_images)
        self._all.append(timed)
        return timed

    def image_s(self) -> float:
        """Seconds of the vision tower for an image."""
        return sum(timed.image_s for timed in self._all) / len(self._all)

    def coefficients(self) -> tuple[float, float]:
        """Seconds of a token, and of a pair of tokens: least squares over all passes."""
        passes = [one for timed in self._all for one in timed.passes]
        counts = np.array([one.counts for one in passes], float)
        seconds = np.array([one.seconds for one in passes])
        token, pair = np.linalg.lstsq(counts / seconds[:, None], np.ones(len(seconds)))[0]
        if pair < 0:
            return float(seconds.sum() / counts[:, 0].sum()), 0.0
        return float(token), float(pair)

    def seconds(self, count: Distinct, around: Sequence[Timed]) -> tuple[float, float]:
        """Seconds for images and for tokens, at the speed of the passes around a measurement."""
        token, pair = self.coefficients()
        passes = [one for timed in around for one in timed.passes]
        expected = [token * one.counts[0] + pair * one.counts[1] for one in passes]
        speed = sum(one.seconds for one in passes) / sum(expected)
        image = sum(timed.image_s for timed in around) / len(around)
        return count.images * image, speed * (token * count.tokens + pair * count.pairs)
