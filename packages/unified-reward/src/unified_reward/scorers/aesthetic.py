"""LAION's improved aesthetic predictor (github.com/christophschuhmann), version 2.

Linear maps on the normalised image embedding of OpenAI's CLIP ViT-L/14. The folder holds the
released file, and in its ``clip`` the folder of openai/clip-vit-large-patch14.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from unified_reward import media
from unified_reward.checkpoints import tensor_keys
from unified_reward.checkpoints.tensor_keys import MappedTensor, State
from unified_reward.core.errors import ModelError
from unified_reward.core.samples import Task
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import read_clip_config
from unified_reward.scorers.images import CONVERTED_FIRST, ImageScorer, fit_square, linear_stack


_PARTS = {
    "linear maps": ("sac+logos+ava1-l14-linearMSE.pth",),
    "CLIP ViT-L/14": (
        "clip/model.safetensors",
        "clip/model.safetensors.index.json",
        "clip/pytorch_model.bin",
    ),
}
_RENAMES = (
    (r"^layers\.", "head."),
    (r"^(?=vision_model\.|visual_projection\.)", "clip."),
)


class AestheticV2(ImageScorer):
    """A regression of ratings; the caption is not read."""

    card = ScoreCard(
        name="aesthetic-v2",
        system="LAION aesthetic predictor v2",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2210.08402",
        weights=(
            "sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor "
            "with openai/clip-vit-large-patch14 as clip",
        ),
        values="a regression of ratings from 1 to 10, which it may leave; the caption is not read",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0; OpenAI's CLIP is MIT",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "score_tensors resizes tensors, not PIL images",
            "float32 on every device unless another dtype is given; the released code has the "
            "CLIP in float16 on a GPU. On random weights, values from -4.8 to 5.1, bfloat16 is off "
            "by up to 0.14 and float16 by up to 0.03",
            CONVERTED_FIRST,
        ),
        verified=(
            "scores of a tiny twin in the released layout, against float64 equations, and those "
            "of maps of the published shape behind transformers 4.45.2 (to 1e-5)",
            "pixels against golden values",
        ),
        open_questions=("no score of the released weights is published to compare with",),
    )
    weights: ClassVar = tuple(name for names in _PARTS.values() for name in names)
    needed: ClassVar = {**_PARTS, "configuration of the CLIP": ("clip/config.json",)}
    ignored: ClassVar = {
        r"text_model\..*|text_projection\.weight|logit_scale": "the caption, which is not read",
        r"vision_model\.embeddings\.position_ids": "positions, which are counted",
    }

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """Weight files of both parts in a folder."""
        return [
            file for names in _PARTS.values() for file in tensor_keys.weight_files(folder, names)
        ]

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A vision tower of the sizes in ``clip/config.json``, and maps as the tensors are."""
        config: Any = read_clip_config(folder / "clip")
        _, columns = tensor_keys.shape(state, "layers.0.weight")
        if columns != config.projection_dim:
            raise ModelError(
                f"the linear maps read {columns} features, but {folder / 'clip'} gives "
                f"{config.projection_dim}; they belong to openai/clip-vit-large-patch14"
            )
        config.vision_config.projection_dim = config.projection_dim
        tower = CLIPVisionModelWithProjection(config.vision_config)
        return nn.ModuleDict({"clip": tower, "head": linear_stack(state, "layers")})

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Both parts under names of their own."""
        return tensor_keys.rename_keys(state, _RENAMES)

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """See `fit_square`."""
        return fit_square(image)

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Ratings."""
        features = self.module["clip"](pixel_values=pixels).image_embeds
        return self.module["head"](functional.normalize(features, dim=-1))[:, 0]
