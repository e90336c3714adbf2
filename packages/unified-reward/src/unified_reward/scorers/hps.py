"""Human Preference Score v1 (arXiv:2303.14420), v2 and v2.1 (arXiv:2306.09341): CLIP models.

Released in the layout of OpenAI's CLIP without a configuration, so sizes are read from the
tensors. The version is part of the name: the files of v2 and v2.1 do not differ in form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPConfig, CLIPModel

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    depth,
    rename_keys,
    shape,
    square_side,
)
from unified_reward.core.errors import ModelError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Task
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import CONTEXT, ClipScorer
from unified_reward.scorers.images import CONVERTED_FIRST, SIDE, fit_square, normalised


_TEXT_HEAD = 64
_RENAMES = (
    (r"^visual\.(class|positional)_embedding$", r"vision_model.embeddings.\1_embedding"),
    (r"positional_embedding$", "position_embedding.weight"),
    (r"^position_embedding", "text_model.embeddings.position_embedding"),
    (r"^token_embedding", "text_model.embeddings.token_embedding"),
    (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
    (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
    (r"^visual\.ln_post", "vision_model.post_layernorm"),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^text_projection$", "text_projection.weight"),
    (r"^ln_final", "text_model.final_layer_norm"),
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_DEVIATIONS = (
    "transparency is laid on white (the released code breaks), and EXIF turns the image",
    "token ids by open_clip's tokenizer, whose vocabulary the release lacks",
    "float32 on every device unless another dtype is given (the released code of v2 casts to "
    "float16 on a GPU); on random weights, values from -0.23 to 0.54, bfloat16 is off by up to "
    "0.015 and float16 by up to 0.0013",
)
_VERIFIED = (
    "scores of a tiny twin in the released layout, against float64 equations",
    "pixels and token ids against golden values",
)


class _HPS(ClipScorer):
    """The plain cosine: no logit scale."""

    needed: ClassVar = {}
    ignored: ClassVar = {r"attn_mask": "the causal mask, which is computed"}
    activation: ClassVar[str]
    vision_head: ClassVar[int]
    """Width of an attention head of the vision tower, which no tensor shows."""

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """Sizes as the tensors have them."""
        width, _, patch, _ = shape(state, "visual.conv1.weight")
        tokens, _ = shape(state, "visual.positional_embedding")
        vocab, text_width = shape(state, "token_embedding.weight")
        _, features = shape(state, "text_projection")
        vision: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth(state, "visual.transformer.resblocks"),
            "num_attention_heads": width // cls.vision_head,
            "image_size": patch * square_side(tokens),
            "patch_size": patch,
        }
        text: dict[str, Any] = {
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": depth(state, "transformer.resblocks"),
            "num_attention_heads": text_width // _TEXT_HEAD,
            "vocab_size": vocab,
            "max_position_embeddings": shape(state, "positional_embedding")[0],
            "eos_token_id": 2,  # makes transformers read at the highest id, as CLIP does
        }
        for tower in (vision, text):
            tower["hidden_act"] = cls.activation
        for side, head in ((width, cls.vision_head), (text_width, _TEXT_HEAD)):
            if side % head:
                raise ModelError(f"a width of {side} is not a multiple of the head width {head}")
        return CLIPModel(
            CLIPConfig(vision_config=vision, text_config=text, projection_dim=features)
        )

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Names of transformers; fused projections are split in three, two are transposed."""
        for target, value, sources in rename_keys(state, _RENAMES):
            stem, fused, kind = target.partition(".in_proj_")
            if fused:
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    yield MappedTensor(f"{stem}.{name}_proj.{kind}", part, sources)
            elif target in _TRANSPOSED:
                yield MappedTensor(target, value.T.contiguous(), sources)
            else:
                yield MappedTensor(target, value, sources)

    @cached_property
    def _tokenizer(self) -> Any:
        with extra("local"):  # HPS is released without a vocabulary; open_clip has it
            from open_clip.tokenizer import SimpleTokenizer
        return SimpleTokenizer(context_length=CONTEXT)

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """By open_clip's tokenizer, as released; padded with 0."""
        return self._tokenizer([*prompts])

    def n_tokens(self, prompt: str) -> int:
        """Begin and end included."""
        return len(self._tokenizer.encode(prompt)) + 2

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines."""
        return self.cosine(pixels, prompts)


class HPSv1(_HPS):
    """A CLIP ViT-L/14 with OpenAI's activation and OpenAI's way of cropping images."""

    card = ScoreCard(
        name="hpsv1",
        system="HPS v1",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2303.14420",
        weights=("hpc.pt, linked from github.com/tgxs002/align_sd",),
        values="a cosine; the authors print it times 100",
        temperature=0.01,
        temperature_source="CLIP's logit scale of 100, with which it was trained",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        deviations=(*_DEVIATIONS, CONVERTED_FIRST),
        verified=_VERIFIED,
    )
    weights = ("hpc.pt",)
    activation = "quick_gelu"
    vision_head = 64

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """See `fit_square`."""
        return fit_square(image)


class HPSv2(_HPS):
    """A CLIP ViT-H/14 that sees the whole image, with black bars beside it."""

    card = ScoreCard(
        name="hpsv2",
        system="HPS v2",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2306.09341",
        weights=("xswu/HPSv2",),
        values="a cosine, about 0.2 to 0.35; benchmark tables print it times 100",
        temperature=0.01,
        temperature_source="CLIP's logit scale of 100, with which it was trained",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        deviations=(
            *_DEVIATIONS,
            "tensors are resized with antialias, as torchvision does since 0.17 (2023: without)",
            "an image whose long side is 224 gets its bars too (the released code breaks)",
        ),
        verified=_VERIFIED,
    )
    weights = ("HPS_v2_compressed.pt",)
    activation = "gelu"
    vision_head = 80

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """Resize as a tensor, the long side to 224 (bicubic), add black bars, normalise."""
        pixels = tv.to_dtype(tv.to_image(image), torch.float32, scale=True)
        return HPSv2.fit_tensor(pixels[None].as_subclass(Tensor))[0]

    @staticmethod
    def fit_tensor(pixels: Tensor) -> Tensor:
        """Prepare tensors as the released code does."""
        height, width = pixels.shape[-2:]
        scale = SIDE / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        if scale != 1:
            pixels = tv.resize(pixels, size, tv.InterpolationMode.BICUBIC, antialias=True)
        top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        bars = [left, top, SIDE - size[1] - left, SIDE - size[0] - top]
        return normalised(tv.pad(pixels, bars))


class HPSv21(HPSv2):
    """HPS v2 with the later weights."""

    card = replace(HPSv2.card, name="hpsv2.1", system="HPS v2.1")
    weights = ("HPS_v2.1_compressed.pt",)
