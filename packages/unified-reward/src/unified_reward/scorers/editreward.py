"""EditReward (Wu et al. 2025, arXiv:2509.26346): an image before and after an edit, asked twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unified_reward.checkpoints.pretrained import load_errors
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, read_json, rename_keys
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Score, Scored
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import OPEN, ScoreCard
from unified_reward.scorers.hpsv3 import fitted, normal
from unified_reward.scorers.qwen_vl import (
    PADS,
    RENAMES,
    QwenScorer,
    patch_counts,
    spread,
    trunk,
    worded,
)


_TOKENS = ("<|Reward|>",)
_HEADS = ("head_0", "head_1")
_SLOT = "⟪words⟫"
_OUTPUTS = 2
"""Mean and log-deviation."""


@dataclass(frozen=True)
class _Edit(Prepared):
    """Source and edited image, and the prompt of each head."""

    quality: str = ""
    """The second prompt; ``text`` is the first."""
    grids: tuple[tuple[int, int, int], ...] = ()


class EditReward(QwenScorer):
    """The mean of two heads, each read at one token of its own prompt about both images."""

    card = ScoreCard(
        name="editreward",
        system="EditReward",
        tasks=(Task.IMAGE_EDITING,),
        paper="2509.26346",
        weights=("TIGER-Lab/EditReward-MiMo-VL-7B-SFT-2508", "TIGER-Lab/EditReward-Qwen2.5-VL-7B"),
        values="open; the authors name no range (labels go from 1 to 4)",
        aspects=("instruction following", "visual quality"),
        overall="the mean of both heads' means, by the authors' configurations",
        wording=("EDITREWARD-FOLLOWING", "EDITREWARD-QUALITY", "HPSV3-SUFFIX"),
        code_licence="MIT",
        weights_licence="see its page",
        deviations=(
            "transparency is laid on white, and an image is turned as its EXIF says",
            "the deviation of the overall value is not given: the released code averages the "
            "logarithms of both, which is no deviation of the mean",
        ),
        verified=(
            "values of a tiny twin in the layout that the released code writes (Qwen2.5-VL, two "
            "heads, positions counted), against float64 equations and transformers 4.57.0",
        ),
        open_questions=(
            "the hashes of its two prompts are those of a fork's copy; importing them from the "
            "authors' clone tells",
            "names and number of the released tensors: known from the code that reads them",
            "the chat template is that of the folder; whether MiMo-VL's is the one of training",
        ),
    )
    weights = ("model.safetensors", "model.safetensors.index.json", "model.pth")
    needed: ClassVar = {
        "configuration of the trunk": ("config.json",),
        "chat template": ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"),
        **Scorer.needed,
    }
    medium = "image"
    head_name = "rm_heads"
    reward_tokens = _TOKENS
    outputs = (_OUTPUTS,)

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self._turn = _turn(self.tokenizer, folder)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """The trunk by ``config.json``, and two heads by the shapes of their tensors."""
        names = {piece.target: piece.value for piece in cls.translate(state, folder)}
        heads = {name: cls.head(names, f"head.{name}") for name in _HEADS}
        return trunk(names, folder, nn.ModuleDict(heads))

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The names of transformers 5."""
        return rename_keys(state, (*RENAMES, (r"^rm_heads\.", "head.")))

    @classmethod
    def examine(cls, module: nn.Module, folder: Path) -> None:
        """Check the tokenizer, and that the chat template takes two images."""
        tokenizer, _ = cls.marks(module, folder)
        _turn(tokenizer, folder)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Both images resized by PIL to about 448 x 448 pixels; the instruction in two prompts."""
        if len(sample.context) != 1 or not isinstance(sample.context[0], Image):
            kinds = ", ".join(type(one).__name__ for one in sample.context)
            raise DataError(f"an edit has one source image in its context; given: {kinds}")
        end = worded("HPSV3-SUFFIX", "")
        following, quality = (
            worded(f"EDITREWARD-{name}", sample.prompt, _TOKENS) + end
            for name in ("FOLLOWING", "QUALITY")
        )
        (source, before), (edited, after) = map(fitted, (*sample.context, *sample.candidates))
        return _Edit(following, torch.cat([source, edited]), quality=quality, grids=(before, after))

    def forward(self, batch: Sequence[Any]) -> Tensor:
        """Mean and log-deviation of each head, shape (B, 4)."""
        patches = torch.cat([one.pixels for one in batch]).to(self.device)
        grids = torch.tensor([grid for one in batch for grid in one.grids], device=self.device)
        seen = self.module.see(patches, grids)
        read: list[Tensor] = []
        for name, texts in zip(
            _HEADS,
            ([one.text for one in batch], [one.quality for one in batch]),
            strict=True,
        ):
            ids = [self._ids(text, one.grids) for text, one in zip(texts, batch, strict=True)]
            rows, mask = self.padded(ids)
            hidden = self.module.hidden_of(rows, mask, seen, self.pad)
            head = self.module.head[name]
            at_token = self.at_rewards(hidden, rows, mask).flatten(1)
            read.append(head(at_token.to(next(head.parameters()).dtype)))
        return torch.cat(read, 1)

    def _ids(self, text: str, grids: Sequence[tuple[int, int, int]]) -> list[int]:
        """Tokens of a whole turn; an image's mark as often as it has features."""
        ids = self.tokenizer(self._turn.replace(_SLOT, text), add_special_tokens=False).input_ids
        return spread(ids, self.pad, patch_counts(grids))

    def decode(self, raw: Sequence[float]) -> Scored:
        """Means and deviations of both heads by aspect; the mean of both means."""
        following, quality = (normal(raw[i : i + _OUTPUTS]) for i in range(0, len(raw), _OUTPUTS))
        overall = Score((following.value + quality.value) / 2, OPEN)
        return Scored(overall, dict(zip(self.card.aspects, (following, quality), strict=True)))


def _turn(tokenizer: Any, folder: Path) -> str:
    """One user turn about two images by the folder's chat template, with a slot for the words.

    Raises:
        ModelError: There is no template, or it does not take two images before a text.
    """
    file = folder / "chat_template.json"
    template = tokenizer.chat_template
    if template is None and file.is_file():
        template = read_json(file).get("chat_template")
    if not isinstance(template, str):
        raise ModelError(f"{folder} has no chat template; copy that of the trunk's folder")
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": _SLOT}]
    with load_errors(f"the chat template in {folder} does not take two images and a text"):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    if text.count(PADS["image"]) != len(parts) - 1 or text.count(_SLOT) != 1:
        raise ModelError(
            f"the chat template in {folder} writes two images and a text as {text!r}; it is not "
            "that of a Qwen-VL"
        )
    return text
