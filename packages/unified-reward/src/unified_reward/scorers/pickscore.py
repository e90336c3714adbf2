"""PickScore (Kirstain et al. 2023, arXiv:2305.01569): a CLIP ViT-H/14 taught by users' choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, read_json, rename_keys
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.samples import Task
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import CONTEXT, ClipScorer


_FIT: Any = CLIPImageProcessorPil()


class PickScore(ClipScorer):
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
    weights = ("model.safetensors", "pytorch_model.bin")
    needed: ClassVar = {"configuration": ("config.json",), **ClipScorer.needed}
    ignored: ClassVar = {r".*\.position_ids": "positions, which are counted"}

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer = load_tokenizer(folder)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A CLIP model of the sizes in ``config.json``."""
        return CLIPModel(CLIPConfig.from_dict(read_json(folder / "config.json")))

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Names are those of transformers already."""
        return rename_keys(state, ())

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """Short side to 224 by PIL's bicubic, the middle square, normalised."""
        return _FIT(image, return_tensors="pt").pixel_values[0]

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids by the tokenizer in the folder."""
        options = {"padding": True, "truncation": True, "max_length": CONTEXT}
        return self.tokenizer([*prompts], return_tensors="pt", **options).input_ids

    def n_tokens(self, prompt: str) -> int:
        """Begin and end included."""
        return len(self.tokenizer(prompt, verbose=False).input_ids)

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scaled cosines."""
        return torch.exp(self.module.logit_scale) * self.cosine(pixels, prompts)
