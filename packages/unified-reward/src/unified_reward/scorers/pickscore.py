"""PickScore (Kirstain et al. 2023, arXiv:2305.01569): a CLIP ViT-H/14 taught by users' choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil

from unified_reward import media
from unified_reward.core.samples import Task
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import ClipFolder
from unified_reward.scorers.images import SIDE, normalised, resize_as_pil, short_size


_FIT: Any = CLIPImageProcessorPil()
_LEVELS = PIL.Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1))
_TABLE = _FIT(_LEVELS, return_tensors="np", do_resize=False, do_center_crop=False).pixel_values
_NORMALISED = _TABLE[0, :, 0]
"""Every value of a pixel as transformers normalises it, float32, shape (3, 256)."""


class PickScore(ClipFolder):
    """``exp(logit_scale) * cosine``; the released scale is about 100 (section 3 of the paper)."""

    card = ScoreCard(
        name="pickscore",
        system="PickScore v1",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2305.01569",
        weights=("yuvalkirstain/PickScore_v1",),
        values="a cosine times about 100; typically 17 to 25",
        temperature_source="1: the paper's softmax over the images of a prompt (equation 1)",
        code_licence="MIT",
        weights_licence="MIT",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "score_tensors resizes tensors, not PIL images",
            "float32 on every device unless another dtype is given; on random weights, values "
            "from -30 to 42, bfloat16 is off by up to 1.2 and float16 by up to 0.14",
        ),
        verified=(
            "scores of a tiny twin in the released layout, against float64 equations",
            "pixels and token ids against golden values",
        ),
    )

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """Short side to 224 by PIL's bicubic, the middle square, normalised.

        Equal to transformers' processor to the bit, at about half of its time.
        """
        height, width = short_size(image.height, image.width)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        resized = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
        square = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))
        planes = zip(_NORMALISED, np.moveaxis(square, -1, 0), strict=True)
        return torch.from_numpy(np.stack([table.take(plane) for table, plane in planes]))

    @staticmethod
    def fit_tensor(pixels: Tensor) -> Tensor:
        """Prepare tensors likewise; the square begins at the floor of half of the rest."""
        height, width = short_size(*pixels.shape[-2:])
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        wide = resize_as_pil(pixels, height, width)
        return normalised(wide[..., top : top + SIDE, left : left + SIDE])

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scaled cosines."""
        return torch.exp(self.module.logit_scale) * self.cosine(pixels, prompts)
