"""HPSv3 (Ma et al. 2025, arXiv:2508.03789): a Qwen2-VL that gives a value and its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.probability import shrink
from unified_reward.core.samples import Candidate, Image, Sample, Task
from unified_reward.core.verdicts import Preferred, Score, Scored
from unified_reward.scorers.base import Prepared
from unified_reward.scorers.card import OPEN, ScoreCard
from unified_reward.scorers.images import TensorScorer, resize_as_pil
from unified_reward.scorers.qwen_vl import (
    PixelBounds,
    QwenScorer,
    chat,
    patched,
    target_size,
    worded,
)


_TOKENS = ("<|Reward|>",)
_MAX_LOG = 700.0
"""Above it an exponential is no finite number."""
_BOUNDS = PixelBounds(256 * 28 * 28, 256 * 28 * 28)


class HPSv3(TensorScorer, QwenScorer):
    """Mean and log-deviation of a normal distribution, read at one token."""

    card = ScoreCard(
        name="hpsv3",
        system="HPSv3",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2508.03789",
        weights=("MizzenAI/HPSv3",),
        values="open; the authors name no range",
        temperature_source="1: the paper's loss, the logistic of the difference, averaged over "
        "both deviations",
        wording=("HPSV3", "HPSV3-SUFFIX"),
        code_licence="MIT",
        weights_licence="see its page",
        deviations=("transparency is laid on white, and an image is turned as its EXIF says",),
        verified=(
            "values of a tiny twin in the released layout (positions counted), against float64 "
            "equations and transformers 4.45.2",
            "pixels and the text before tokenising against golden values",
        ),
    )
    weights = ("HPSv3.safetensors",)
    medium = "image"
    reward_tokens = _TOKENS
    outputs = (2,)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The image resized by PIL to about 448 x 448 pixels; the caption within its prompt."""
        patches, grid = fitted(sample.candidates[0])
        return Prepared(_text(sample.prompt), patches, grid=grid)

    def prepare_tensors(self, pixels: Tensor, prompts: Sequence[str]) -> list[Prepared]:
        """Likewise, with gradients."""
        height, width = pixels.shape[-2:]
        size = target_size(height, width, _BOUNDS)
        made = [patched(255 * image) for image in resize_as_pil(pixels, *size).split(1)]
        return [
            Prepared(_text(prompt), patches, grid=grid)
            for prompt, (patches, grid) in zip(prompts, made, strict=True)
        ]

    def decode(self, raw: Sequence[float]) -> Scored:
        """The mean, and the exponential of the second output: the loss takes it so."""
        return Scored(normal(raw))

    def compare_scored(self, first: Scored, second: Scored) -> Preferred:
        """The logistic of the difference, averaged over its normal distribution.

        See `core.probability.shrink`.
        """
        scores = [scored.score for scored in (first, second) if scored.score]
        variance = sum((score.sigma or 0.0) ** 2 for score in scores)
        shrunk = [
            replace(scored, score=Score(shrink(score.value, variance), OPEN))
            for scored, score in zip((first, second), scores, strict=True)
        ]
        return super().compare_scored(*shrunk)


def _text(caption: str) -> str:
    return chat("image", worded("HPSV3", caption, _TOKENS) + worded("HPSV3-SUFFIX", ""))


def fitted(medium: Candidate) -> tuple[Tensor, tuple[int, int, int]]:
    """Patches and grid of an image, resized by PIL (bicubic) to about 448 x 448 pixels.

    Raises:
        DataError: It is no image.
        MediaError: It cannot be opened, or is too thin.
    """
    if not isinstance(medium, Image):
        raise DataError(f"an image was expected, not a {type(medium).__name__}")
    picture = media.open_image(medium)
    height, width = target_size(picture.height, picture.width, _BOUNDS)
    resized = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return patched(torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None].float())


def normal(raw: Sequence[float]) -> Score:
    """Mean and deviation from a mean and the logarithm of a deviation."""
    mean, log_sigma = raw
    return Score(mean, OPEN, math.exp(log_sigma) if log_sigma < _MAX_LOG else math.inf)
