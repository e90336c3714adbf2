"""VQAScore (Lin et al. 2024, arXiv:2404.01291): a Flan-T5 with CLIP's eyes is asked of a caption.

The folder is that of zhiqiulin/clip-flant5-xxl, with ``spiece.model`` of google/flan-t5-xxl. Where
its tensors lack the vision tower, the stock one lies in ``clip-vit-large-patch14-336``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from unified_reward import media
from unified_reward.checkpoints import tensor_keys
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, depth, shape
from unified_reward.core.errors import DataError, MediaError, ModelError, one_line
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Scale, Score, Scored
from unified_reward.scorers import open_facts
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import Fact, ScoreCard
from unified_reward.scorers.images import normalised
from unified_reward.scorers.lift import VICUNA
from unified_reward.scorers.qwen_vl import worded


CHANCE = Scale(0.0, 1.0)
_MARKS = ("<image>", "</s>", "<pad>", "<unk>", "<extra_id_")
"""Strings that the released code or its tokenizer does not treat as text."""
_PAD, _END = 0, 1
_EXTRA_IDS = 100
"""Tokens of T5 behind the pieces of its model file."""
_ANSWER = "Yes"
_SIDE = 336
_AROUND = (122, 116, 104)
"""Mean of CLIP's pixels, cut to whole numbers."""
_LONGEST = 16_384
"""Side of the largest square that is held in memory, in pixels."""
_HEAD = 64
_LIMIT = 2048
_TOWER = "clip-vit-large-patch14-336"
_KIND = "clip_t5"
_FROM_CONFIG = (
    *("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("layer_norm_epsilon", "feed_forward_proj"),
)
_EXPECTED = {
    "model_type": _KIND,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "tie_word_embeddings": False,
}
_RENAMES = (
    (r"^(vision_tower\.vision_tower\.)?vision_model\.", "vision."),
    (r"^mm_projector\.", "projector."),
    (r"^(?=shared\.|encoder\.|decoder\.|lm_head\.)", "t5."),
)


class ClipFlanT5(nn.Module):
    """A vision tower, a projector, and a T5 that reads text, image, text."""

    def __init__(self, t5: T5Config, tower: CLIPVisionConfig, layer: int, n_tokens: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_tokens = n_tokens
        width = t5.d_model
        self.vision = CLIPVisionModel(tower)
        self.projector = nn.Sequential(
            nn.Linear(tower.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.t5: Any = T5ForConditionalGeneration(t5)
        for stack in (self.t5.encoder, self.t5.decoder):
            stack.embed_tokens = None  # copies of ``shared``

    def forward(
        self, pixels: Tensor, before: Tensor, after: Sequence[Tensor], target: Tensor
    ) -> Tensor:
        """Log-probability of each token of an answer, shape (B, answer).

        Args:
            pixels: Shape (B, 3, side, side).
            before: Ids of the text before each image.
            after: Ids of the text behind the image, for each of B.
            target: Ids of the answer, the end included.
        """
        states: Any = self.vision(pixels, output_hidden_states=True).hidden_states
        images = self.projector(states[self.layer][:, 1:])
        embed = self.t5.shared
        rows = [
            torch.cat([embed(before), image, embed(ids)])
            for image, ids in zip(images, after, strict=True)
        ]
        ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
        answered = torch.cat([target.new_tensor([_PAD]), target[:-1]])
        logits = self.t5(
            inputs_embeds=pad_sequence(rows, batch_first=True),
            attention_mask=pad_sequence(ones, batch_first=True),
            decoder_inputs_embeds=embed(answered).expand(len(rows), -1, -1),
            use_cache=False,
        ).logits[..., : self.n_tokens]
        wide = torch.promote_types(logits.dtype, torch.float32)
        chances = logits.to(wide).log_softmax(-1)
        return chances.gather(-1, target.expand(len(rows), -1)[..., None])[..., 0]


class VQAScore(Scorer):
    """Geometric mean of the probabilities of ``Yes`` and of the end behind it."""

    card = ScoreCard(
        name="vqascore",
        system="VQAScore (clip-flant5-xxl)",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2404.01291",
        weights=("zhiqiulin/clip-flant5-xxl with spiece.model of google/flan-t5-xxl",),
        values="0 to 1, by definition",
        overall="sqrt(p(Yes) p(</s> | Yes)), over the tokenizer's 32,100 tokens: the released code "
        "averages the loss of both; the paper has p(Yes)",
        scale=CHANCE,
        wording=("VQASCORE",),
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "the question's hash is that of t2v_metrics as published by its authors; that the copy "
            "within VisionReward has the same words is expected, and its import would tell",
            "a text of more than 2048 tokens fails, where the released code cuts its end",
            "an image with a side of more than 16,384 pixels fails",
        ),
        verified=(
            "scores of a tiny twin, named as the released code names its tensors, against float64 "
            "equations",
            "pixels and the pieces before tokenising against golden values",
        ),
        open_questions=(
            "names and files of the released folder, which nobody has listed: scorers check does",
            "a published score",
        ),
    )
    weights = (
        *("model.safetensors.index.json", "model.safetensors"),
        *("pytorch_model.bin.index.json", "pytorch_model.bin"),
    )
    needed: ClassVar = {
        "tokenizer of google/flan-t5-xxl": ("spiece.model",),
        "configuration": ("config.json",),
    }
    ignored: ClassVar = {
        r"((encoder|decoder)\.)?embed_tokens\.weight": "copies of shared.weight",
        r".*\.position_ids": "counted anew",
        r"text_model\..*|(text|visual)_projection\.weight|logit_scale": "parts of CLIP not used",
    }

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer = _pieces(folder)

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """Weight files of the model, and of the stock vision tower where it lies beside them."""
        names = (f"{_TOWER}/model.safetensors", f"{_TOWER}/pytorch_model.bin")
        own = tensor_keys.weight_files(folder, cls.weights)
        return own and [*own, *tensor_keys.weight_files(folder, names)]

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """T5 by ``config.json``, the vision tower as large as its tensors."""
        config = tensor_keys.read_json(file := folder / "config.json")
        for key, wanted in _EXPECTED.items():
            if (found := config.get(key, wanted)) != wanted or "model_type" not in config:
                raise ModelError(f"{file} has {key} {found!r}; that of VQAScore is {wanted!r}")
        rows = shape(state, "shared.weight")[0]
        n_tokens = rows
        if is_file(folder / "spiece.model"):
            n_tokens = len(_pieces(folder)) + _EXTRA_IDS
        if rows < n_tokens:
            raise ModelError(
                f"the tokenizer in {folder} has {n_tokens} tokens, more than the {rows} that these "
                "weights know; it is another model's"
            )
        given = {name: config[name] for name in _FROM_CONFIG if name in config}
        # transformers takes tied embeddings as the sign of T5 v1.0, whose outputs are scaled
        given["tie_word_embeddings"] = False
        t5 = T5Config(**given, vocab_size=rows)
        layer = config.get("mm_vision_select_layer", -2)
        return ClipFlanT5(t5, _tower(state, folder), layer, n_tokens)

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Three parts under one name each."""
        return tensor_keys.rename_keys(state, _RENAMES)

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Open questions that the files of a folder answer."""
        return open_facts.vqascore(folder)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The image padded to a square and resized; the caption within its question."""
        medium = sample.candidates[0]
        if not isinstance(medium, Image):
            raise DataError(f"an image was expected, not a {type(medium).__name__}")
        for mark in _MARKS:
            if mark in sample.prompt:
                raise DataError(f"the caption holds {mark!r}, which is not read as text")
        question = worded("VQASCORE", "").replace("{}", sample.prompt)
        return Prepared(question, fitted(media.open_image(medium)))

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Scores, shape (B, 1).

        Raises:
            ValueError: A text is too long.
        """
        before = self._ids(VICUNA)
        after = [self._ids(f"\n{prepared.text} ASSISTANT: ") for prepared in batch]
        longest = len(before) + max(map(len, after)) + 1  # the image counts as one
        if longest > _LIMIT:
            raise ValueError(f"{longest} tokens are more than {_LIMIT}; shorten the caption")
        pixels = torch.stack([one.pixels for one in batch]).to(self.device, self.dtype)
        return self.module(pixels, before, after, self._ids(_ANSWER)).mean(-1, keepdim=True).exp()

    def _ids(self, text: str) -> Tensor:
        """Ids of a piece of text, with an end of its own."""
        return torch.tensor([*self.tokenizer.encode(text), _END], device=self.device)

    def decode(self, raw: Sequence[float]) -> Scored:
        """The score, which rounding may carry a little above 1."""
        return Scored(Score(min(raw[0], 1.0), CHANCE))


def fitted(image: media.PILImage) -> Tensor:
    """An image in the middle of a square of CLIP's mean, at 336 x 336, normalised.

    Raises:
        MediaError: The square would be too large.
    """
    side = max(image.size)
    if side > _LONGEST:
        raise MediaError(
            f"an image of {image.width} x {image.height} is padded to a square; sides of up to "
            f"{_LONGEST} pixels are read"
        )
    square = PIL.Image.new("RGB", (side, side), _AROUND)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    resized = square.resize((_SIDE, _SIDE), PIL.Image.Resampling.BICUBIC)
    return normalised(tv.to_dtype(tv.to_image(resized), torch.float32, scale=True))


def _tower(state: State, folder: Path) -> CLIPVisionConfig:
    names = {piece.target: piece.value for piece in tensor_keys.rename_keys(state, _RENAMES)}
    if not any(name.startswith("vision.") for name in names):
        raise ModelError(
            f"{folder} has no vision tower; put model.safetensors or pytorch_model.bin of openai/"
            f"{_TOWER} into {folder / _TOWER}"
        )
    width, _, patch, _ = shape(names, "vision.embeddings.patch_embedding.weight")
    positions = shape(names, "vision.embeddings.position_embedding.weight")[0]
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shape(names, "vision.encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=depth(names, "vision.encoder.layers"),
        num_attention_heads=width // _HEAD,
        image_size=patch * tensor_keys.square_side(positions),
        patch_size=patch,
    )


def _pieces(folder: Path) -> Any:
    """The tokenizer, by SentencePiece as released.

    Raises:
        ModelError: The file is broken, or SentencePiece is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(f"{folder / 'spiece.model'} cannot be read: {one_line(error)}") from error
