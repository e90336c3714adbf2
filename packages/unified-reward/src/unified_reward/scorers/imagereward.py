"""ImageReward (Xu et al. 2023, arXiv:2304.05977): BLIP with a small head, taught by rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    depth,
    read_json,
    rename_keys,
    shape,
    square_side,
)
from unified_reward.checkpoints.tokenizers import load_tokenizer, match_file
from unified_reward.core.samples import Task
from unified_reward.scorers.base import Prepared
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.clip import cut_note
from unified_reward.scorers.images import CONVERTED_FIRST, ImageScorer, fit_square, linear_stack


_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
_LIMIT = 35
_VISION_HEAD = 64
_RENAMES = (
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^vision\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^vision\.blocks\.", "vision.encoder.layers."),
    (r"^(vision\..*)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision\..*)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"^(vision\..*)\.attn\.proj\.", r"\1.self_attn.projection."),
)


class _Model(nn.Module):
    """BLIP: the caption attends to the image; the head reads its first token."""

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel, head: nn.Sequential) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.head = head

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Values before they are standardised, shape (B,)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            is_decoder=False,
        )
        return self.head(read.last_hidden_state[:, 0])[:, 0]


class ImageReward(ImageScorer):
    """The head's value, standardised by the authors' mean and deviation (section 2.3)."""

    card = ScoreCard(
        name="imagereward",
        system="ImageReward v1.0",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2304.05977",
        weights=("THUDM/ImageReward", "zai-org/ImageReward"),
        values="standardised by the authors; 62 % of real scores in -1 to 1, 98 % in -2 to 2",
        constants={"mean": _MEAN, "std": _STD},
        temperature=1 / _STD,
        temperature_source="the paper's loss, the logistic of values that are not standardised",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "score_tensors resizes tensors, not PIL images",
            CONVERTED_FIRST,
            "float32 on every device unless another dtype is given; on random weights, values "
            "from -1.8 to 2, bfloat16 is off by up to 0.14 and float16 by up to 0.008",
        ),
        verified=(
            "scores of a tiny twin in the released layout, against float64 equations",
            "pixels and token ids against golden values",
        ),
    )
    weights = ("ImageReward.pt",)
    needed: ClassVar = {
        "configuration of the text encoder": ("med_config.json",),
        "vocabulary of bert-base-uncased, which the release lacks": ("vocab.txt", "tokenizer.json"),
    }
    control = ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[DEC]", "[ENC]")
    ignored: ClassVar = {
        r"blip\.(vision|text)_proj\..*": "projections of BLIP that the score does not use",
        r"blip\.text_encoder\.embeddings\.position_ids": "positions, which are counted",
    }

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        vocabulary = folder / "vocab.txt"
        if vocabulary.is_file():
            self.tokenizer: Any = BertTokenizer(vocab=str(vocabulary))
            match_file(self.tokenizer, folder)
        else:
            self.tokenizer = load_tokenizer(folder)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """Vision and head as large as the tensors, text by ``med_config.json``."""
        given = read_json(folder / "med_config.json")
        text = BlipTextConfig(
            **{name: given[name] for name in _FROM_MED if name in given},
            is_decoder=True,  # only then are there layers that look at the image
        )
        width, _, patch, _ = shape(state, "blip.visual_encoder.patch_embed.proj.weight")
        tokens = shape(state, "blip.visual_encoder.pos_embed")[1]
        vision = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=shape(state, "blip.visual_encoder.blocks.0.mlp.fc1.weight")[0],
            num_hidden_layers=depth(state, "blip.visual_encoder.blocks"),
            num_attention_heads=width // _VISION_HEAD,
            image_size=patch * square_side(tokens),
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
        text.vocab_size = shape(state, "blip.text_encoder.embeddings.word_embeddings.weight")[0]
        text.encoder_hidden_size = width
        return _Model(
            BlipVisionModel(vision),
            BlipTextModel(text, add_pooling_layer=False),
            linear_stack(state, "mlp.layers"),
        )

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Vision under other names; the text encoder's are the same."""
        return rename_keys(state, _RENAMES)

    @staticmethod
    def fit(image: media.PILImage) -> Tensor:
        """See `fit_square`."""
        return fit_square(image)

    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Standardised values. The caption begins with ``[CLS]``, not with BLIP's ``[ENC]``."""
        options = {"padding": "max_length", "truncation": True, "max_length": _LIMIT}
        words = self.tokenizer([*prompts], return_tensors="pt", **options).to(self.device)
        return (self.module(pixels, words.input_ids, words.attention_mask) - _MEAN) / _STD

    def notes(self, prepared: Prepared) -> tuple[str, ...]:
        """Note on a caption that was cut."""
        return cut_note(len(self.tokenizer(prepared.text, verbose=False).input_ids), _LIMIT)


_FROM_MED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)
