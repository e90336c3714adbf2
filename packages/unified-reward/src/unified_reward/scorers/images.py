"""Scorers of one picture each, whose pixels may be a generator's own: gradients reach them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from unified_reward import media
from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.samples import Image, Sample
from unified_reward.scorers.base import Prepared, Scorer


MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
"""Of OpenAI's CLIP, and of all that came after it."""
SIDE = 224


class PictureScorer(Scorer):
    """A scorer of a picture and its caption."""

    @staticmethod
    @abstractmethod
    def fit(picture: media.PILImage) -> Tensor:
        """A picture as the released code prepares it, shape (3, 224, 224), float32."""

    @staticmethod
    def fit_tensor(pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], shape (B, 3, H, W), prepared so that gradients pass."""
        return normalised(short_side(pixels))

    @abstractmethod
    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of prepared pixels, shape (B,)."""

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The picture fitted, the caption as it is; see ``Scorer.prepare``."""
        medium = sample.candidates[0]
        if not isinstance(medium, Image):
            raise DataError(f"a picture was expected, not a {type(medium).__name__}")
        return Prepared(sample.prompt, cls.fit(media.open_image(medium)))

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Scores as one column."""
        pixels = torch.stack([one.pixels for one in batch]).to(self.device, self.dtype)
        return self.points(pixels, [one.text for one in batch])[:, None]

    def score_tensors(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of pictures in memory, with gradients to their pixels.

        Pictures are resized as tensors, which the released code of PickScore, HPS v1 and
        ImageReward does not: their scores differ from those of ``score`` by the resizing alone.

        Args:
            pixels: float, shape (B, 3, H, W), in [0, 1].
            prompts: B captions.

        Returns:
            Scores in the unit of the card, shape (B,).

        Raises:
            MediaError: Another shape or dtype.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise MediaError(
                f"pixels are float of shape (B, 3, H, W) in [0, 1], not {pixels.dtype} "
                f"of {tuple(pixels.shape)}"
            )
        if len(pixels) != len(prompts):
            raise DataError(f"{len(pixels)} pictures and {len(prompts)} captions; give as many")
        return self.points(self.fit_tensor(pixels).to(self.device, self.dtype), prompts)


def short_side(pixels: Any) -> Any:
    """The short side of a PIL picture or a tensor to 224 (bicubic), the middle square cut out."""
    resized = tv.resize(pixels, [SIDE], tv.InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(resized, [SIDE])


def normalised(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] minus the mean, divided by the deviation of each channel."""
    return tv.normalize(pixels, MEAN, STD)
