"""CLIPScore (Hessel et al. 2021, arXiv:2104.08718), and the cosine that is printed under its name.

Any CLIP in a folder of transformers; scores of two CLIPs are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from unified_reward import media
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import ClipFolder
from unified_reward.scorers.images import CONVERTED_FIRST, fit_square


_WEIGHT = 2.5


class CLIPScore(ClipFolder):
    """``2.5 * max(cosine, 0)`` of the image and "A photo depicts " before the caption."""

    card = ScoreCard(
        name="clipscore",
        system="CLIPScore",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2104.08718",
        weights=("openai/clip-vit-base-patch32, the paper's", "any CLIP folder of transformers"),
        values="2.5 times a cosine, 0 where that is negative: 0 to 1 in practice (section 3)",
        scale=Scale(0.0, _WEIGHT),
        constants={"w": _WEIGHT},
        temperature=_WEIGHT / 100,
        temperature_source="CLIP's logit scale of 100 on the cosine, with which it was trained",
        code_licence="MIT",
        weights_licence="that of the CLIP; OpenAI's is MIT",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "score_tensors resizes tensors, not PIL images",
            "float32 on every device unless another dtype is given (the released code has float16 "
            "on a GPU); on random weights, cosines from -0.35 to 0.2, bfloat16 is off by up to "
            "0.011 and float16 by up to 0.0016",
            CONVERTED_FIRST,
        ),
        verified=(
            "scores of a tiny twin in the released layout, against float64 equations, and those "
            "of transformers 4.45.2 (to 7e-7)",
            "pixels and token ids against golden values; the words before the caption are those "
            "of jmhessel/clipscore, whose demo counts the 77 tokens with them",
        ),
        open_questions=("scores of released weights are not compared: the release has none",),
    )
    prefix: ClassVar[str] = "A photo depicts "

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """See `fit_square`."""
        return fit_square(image)

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Weighted cosines, at least 0."""
        return _WEIGHT * self.cosine(pixels, prompts).clamp(min=0)


class CLIPCosine(CLIPScore):
    """The plain cosine of image and caption, which papers on generation print times 100."""

    card = replace(
        CLIPScore.card,
        name="clip-cosine",
        system="CLIP cosine",
        weights=("openai/clip-vit-large-patch14", "any CLIP folder of transformers"),
        values="a cosine of image and caption; papers on generation call it CLIP score and print "
        "it times 100 (30 to 36 for FLUX, UnifiedReward's Table XIII)",
        scale=Scale(-1.0, 1.0),
        constants={},
        temperature=0.01,
        verified=(
            "scores of a tiny twin in the released layout, against float64 equations, and those "
            "of transformers 4.45.2 (to 4e-7)",
        ),
        open_questions=("which CLIP and whether a prefix is behind a printed number: papers vary",),
    )
    prefix: ClassVar[str] = ""

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines."""
        return self.cosine(pixels, prompts)
