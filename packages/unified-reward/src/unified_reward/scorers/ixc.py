"""InternLM-XComposer-2.5-Reward (Zang et al. 2025, arXiv:2501.12368): a reward of answers.

An InternLM2 reads a conversation and the tiles of its images, and gives a reward at its last token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw, ImageFont
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

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
from unified_reward.core.errors import DataError, MediaError, ModelError, one_line
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.scorers import open_facts
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import Fact, ScoreCard
from unified_reward.scorers.images import normalised
from unified_reward.scorers.internlm2 import RewardModel, Sizes, TowerSizes


MARK = "<ImageHere>"
"""Place of an image in a question."""
OPEN, CLOSE, REWARD = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_130]"
"""Begin and end of a message, and the token at which the reward is read."""
CONTROL = ("<s>", "</s>", "<unk>", OPEN, CLOSE, REWARD)
"""Strings that the released code reads as tokens."""
MAX_TOKENS = 16_384
SIDE = 560
"""Side of a tile, in pixels."""
MAX_TILES, MAX_TILES_OF_SEVERAL = 24, 6
_OF_BASE = re.compile(r"output\.weight|.*lora_(sft|dpo|web).*")
"""Tensors of InternLM-XComposer-2.5 itself."""
_RENAMES = ((r"^vit\.vision_tower\.(?=vision_model\.)", ""),)
_FRAMES, _LONG_SIDE, _BAND, _GAP = 32, 1120, 40, 10
"""Frames of a video at most; their longer side, the band of their label and the gap between, in
pixels."""
_OTHER_FONT = "frames are labelled in another font than the released code's"


@dataclass(frozen=True)
class PreparedChat(Prepared):
    """A conversation with the tiles of its images, one image after the other."""

    tiles: tuple[tuple[int, int], ...] = ()
    """Rows and columns of each image; before its tiles stands the whole image."""

    def image_tokens(self, side: int) -> int:
        """Number of tokens of all images, with ``side`` tokens along a side of a tile."""
        return sum(n_tokens(rows, columns, side) for rows, columns in self.tiles)


class IXCReward(Scorer):
    """The reward of an answer to a question about images, about a video, or of text alone."""

    card = ScoreCard(
        name="ixc-2.5-reward",
        system="InternLM-XComposer-2.5-Reward",
        tasks=(Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING),
        paper="2501.12368",
        weights=("internlm/internlm-xcomposer2d5-7b-reward",),
        values="open; -11.8 to 25.1 on the authors' RewardBench, higher is better",
        frames="one a second, from more than 32 of these 32, pasted into one picture",
        temperature_source="1: the paper's loss is the logistic of the difference",
        code_licence="Apache-2.0",
        weights_licence="free for research; for trade by a form",
        deviations=(
            "frames of a video are labelled in Pillow's own font: the released code downloads "
            "SimHei, which is not shipped here; a note on each such score says so",
            "frames by PyAV, not decord; a video without a known rate has one frame a second",
            "a text with <s>, </s>, <unk> or a token of the conversation's form is refused; the "
            "released code reads it as that token",
            "a conversation over 16,384 tokens is refused; the released code cuts its end, which "
            "is what it reads",
            "images that are not as many as their marks are refused; the released code warns",
            "transparency is laid on white, and an image is turned as its EXIF says",
            "bfloat16 by default off a CPU; published values are of float16 (dtype='float16')",
        ),
        verified=(
            "values of a tiny twin in the released layout (adapters at image positions, groups of "
            "queries, tiles, separators), against float64 equations",
            "names and shapes of all 944 tensors against the sizes of the three released files",
            "pixels, tiles and the text before tokenising against golden values",
        ),
        open_questions=(
            "whether the newline before the last two tokens is read: `ixc-2.5-reward`, the "
            "default, strips it as transformers 4.33 does, which the authors name; "
            "`ixc-2.5-reward-newline` keeps it. The README's rewards decide: 5.7617 and -2.8457",
            "activation of the CLIP tower, taken to be quick_gelu",
        ),
    )
    weights = (
        "model.safetensors.index.json",
        "model.safetensors",
        "pytorch_model.bin.index.json",
    )
    needed: ClassVar = {"configuration": ("config.json",), "tokenizer": ("tokenizer.model",)}
    answers_alone = True
    newline: ClassVar[bool] = False
    """The newline behind the answer is a token."""
    max_tiles: ClassVar[int] = MAX_TILES
    """Tiles of a single image; each of several has 6. The authors' benchmarks have 9."""

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer = tokenizer(folder)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A model of the sizes of the tensors and of ``config.json``."""
        of_base = [name for name in state if _OF_BASE.fullmatch(name)]
        if of_base:
            raise ModelError(
                f"{folder} holds {of_base[0]}, a tensor of the base model InternLM-XComposer-2.5; "
                "its reward model is internlm/internlm-xcomposer2d5-7b-reward"
            )
        shape(state, "score.weight")
        vocab, width = shape(state, "model.tok_embeddings.weight")
        known = tokenizer(folder).get_piece_size()
        if known > vocab:
            raise ModelError(
                f"{folder}/tokenizer.model has {known} tokens and the embedding {vocab}: it is of "
                "other weights"
            )
        return RewardModel(_sizes(state, folder, vocab, width), _tower_sizes(state))

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The tower without its two wrappers."""
        return rename_keys(state, _RENAMES)

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Answers to the questions that only a released folder answers."""
        return open_facts.ixc(folder)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The conversation with its marks, and the tiles of each image."""
        answer = sample.candidates[0]
        if not isinstance(answer, str):
            raise DataError(f"an answer in words was expected, not a {type(answer).__name__}")
        text = conversation(sample.prompt, answer, len(sample.context), newline=cls.newline)
        pictures = [picture(medium) for medium in sample.context]
        most = cls.max_tiles if len(pictures) < 2 else MAX_TILES_OF_SEVERAL
        tiles = [tiled(fitted(one, most)) for one in pictures]
        pixels = torch.cat([one for one, _, _ in tiles]) if tiles else torch.empty(0)
        notes = (_OTHER_FONT,) if any(isinstance(one, Video) for one in sample.context) else ()
        places = tuple((rows, columns) for _, rows, columns in tiles)
        return PreparedChat(text, pixels, notes=notes, tiles=places)

    def _prepare(self, sample: Sample) -> Prepared | Failed:
        prepared = super()._prepare(sample)
        if isinstance(prepared, PreparedChat):
            ids = token_ids(prepared.text, self.tokenizer)
            n = sum(map(len, ids)) + prepared.image_tokens(self.module.side)
            if n > MAX_TOKENS:
                error = DataError(
                    f"{n} tokens are more than the {MAX_TOKENS} that it reads, and the reward is "
                    "read at the last; shorten the text"
                )
                return Failed.from_error(error)
        return prepared

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Rewards as one column."""
        rows = [self._embedded(one) for one in batch if isinstance(one, PreparedChat)]
        x = pad_sequence([row for row, _ in rows], batch_first=True)
        seen = pad_sequence([row for _, row in rows], batch_first=True)
        last = torch.tensor([len(row) - 1 for row, _ in rows], device=self.device)
        return self.module.rewards(x, seen, last)

    def _embedded(self, chat: PreparedChat) -> tuple[Tensor, Tensor]:
        """Embeddings of a conversation, and where they are of an image."""
        embed = self.module.model.tok_embeddings
        texts = [
            embed(torch.tensor(ids, dtype=torch.long, device=self.device))
            for ids in token_ids(chat.text, self.tokenizer)
        ]
        pixels = chat.pixels.to(self.device, self.dtype)
        counts = [1 + rows * columns for rows, columns in chat.tiles]
        images = [
            self.module.see(part, *places)
            for part, places in zip(pixels.split(counts), chat.tiles, strict=True)
        ]
        parts = [texts[0]]
        for image, text in zip(images, texts[1:], strict=True):
            parts += [image, text]
        seen = [
            torch.full((len(part),), i % 2 == 1, device=self.device) for i, part in enumerate(parts)
        ]
        return torch.cat(parts), torch.cat(seen)


class IXCRewardNewline(IXCReward):
    """IXC-2.5-Reward with the newline that later tokenizers keep behind the answer."""

    card = replace(
        IXCReward.card,
        name="ixc-2.5-reward-newline",
        system="InternLM-XComposer-2.5-Reward, newline kept",
    )
    newline = True


def conversation(question: str, answer: str, n_images: int, *, newline: bool) -> str:
    """A question and its answer as the model reads them, up to the two tokens behind them.

    A single image without a mark stands before the whole conversation.

    Raises:
        DataError: There are not as many marks as images, or a text holds what is not read as text.
    """
    for what, text in (("question", question), ("answer", answer)):
        marks = CONTROL if what == "question" else (*CONTROL, MARK)
        found = [mark for mark in marks if mark in text]
        if found:
            raise DataError(f"the {what} holds {found[0]!r}, which is not read as text")
    n_marks = question.count(MARK)
    before = MARK if (n_images, n_marks) == (1, 0) else ""
    if n_images != n_marks + bool(before):
        raise DataError(
            f"the question has {n_marks} marks {MARK} and {n_images} images; put a mark into the "
            "question for each image (a single image needs none)"
        )
    turns = [f"{OPEN}user\n{question}{CLOSE}\n", f"{OPEN}assistant\n{answer}{CLOSE}"]
    return before + "".join(turns) + "\n" * newline


def token_ids(text: str, tokenizer: Any) -> list[list[int]]:
    """Tokens of the texts around the images, with those in front and behind.

    ``</s>`` is a token by its name in no text, so it is put there by its number.
    """
    ids: list[list[int]] = [tokenizer.encode(part) for part in text.split(MARK)]
    ids[0] = [tokenizer.bos_id(), *ids[0]]
    ids[-1] += [tokenizer.eos_id(), tokenizer.piece_to_id(REWARD)]
    return ids


def n_tokens(rows: int, columns: int, side: int) -> int:
    """Tokens of an image in tiles of side * side tokens, with the whole image and separators.

    >>> n_tokens(1, 1, 20)
    841
    """
    return (rows * columns + 1) * side**2 + 1 + (rows + 1) * side


def picture(medium: Image | Video) -> media.PILImage:
    """An image, or the frames of a video as one."""
    return media.open_image(medium) if isinstance(medium, Image) else collage(medium)


def fitted(image: media.PILImage, most: int) -> media.PILImage:
    """An image resized to at most so many tiles, white below where the last row is not full.

    One that is higher than wide is turned over its diagonal meanwhile, so white is on its right.

    Raises:
        MediaError: It is so long that nothing is left of its other side.
    """
    is_high = image.width < image.height
    wide = image.transpose(PIL.Image.Transpose.TRANSPOSE) if is_high else image
    ratio = wide.width / wide.height
    fits = [n for n in range(1, most + 1) if n * math.ceil(n / ratio) <= most]
    width = SIDE * min(math.ceil(wide.width / SIDE), fits[-1])
    height = int(width / ratio)
    if height < 1:
        raise MediaError(f"an image of {image.width} x {image.height} is too long to be read")
    canvas = PIL.Image.new("RGB", (width, math.ceil(height / SIDE) * SIDE), "white")
    canvas.paste(wide.resize((width, height), PIL.Image.Resampling.BILINEAR))
    return canvas.transpose(PIL.Image.Transpose.TRANSPOSE) if is_high else canvas


def tiled(image: media.PILImage) -> tuple[Tensor, int, int]:
    """The whole image and its tiles row by row, normalised; the numbers of rows and columns.

    The whole is made small (bicubic, without antialias) after it is normalised.

    Returns:
        Pixels of shape (1 + rows * columns, 3, 560, 560), float32, then rows and columns.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    pixels = normalised(pixels)
    whole = functional.interpolate(pixels[None], (SIDE, SIDE), mode="bicubic")
    rows, columns = image.height // SIDE, image.width // SIDE
    cut = pixels.unflatten(1, (rows, SIDE)).unflatten(3, (columns, SIDE))
    return torch.cat([whole, cut.permute(1, 3, 0, 2, 4).flatten(0, 1)]), rows, columns


def frame_places(n_frames: int, fps: Callable[[], float | None]) -> tuple[int, ...]:
    """Indices of one frame a second; from more than 32 of them 32, their last part left out.

    >>> frame_places(10, lambda: 2.5)
    (0, 2, 4, 6, 8)
    """
    each = range(0, n_frames, max(1, round(fps() or 1)))
    if len(each) <= _FRAMES:
        return tuple(each)
    step = len(each) / (_FRAMES + 1)
    return tuple(each[int(i * step)] for i in range(_FRAMES))


def collage(video: Video) -> media.PILImage:
    """Frames of a video as one picture: wide ones below, high ones beside each other.

    Each has a label above and a line between it and the next.
    """
    frames = media.select_frames(video, frame_places).images()
    width, height = frames[0].size
    is_wide, ratio = width > height, width / height
    width, height = (
        (_LONG_SIDE, int(_LONG_SIDE / ratio)) if is_wide else (int(_LONG_SIDE * ratio), _LONG_SIDE)
    )
    if min(width, height) < 1:
        raise MediaError(f"frames of {frames[0].width} x {frames[0].height} are too long")
    right, down = (0, _BAND + height + _GAP) if is_wide else (width + _GAP, 0)
    size = max(width, right * len(frames)), max(_BAND + height, down * len(frames))
    canvas = PIL.Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_BAND)
    for i, frame in enumerate(frames):
        x, y = i * right, i * down
        resized = frame.resize((width, height), PIL.Image.Resampling.BILINEAR)
        canvas.paste(resized, (x, y + _BAND))
        draw.text((x, y), f"<IMAGE {i}>", font=font, fill="black")
        if i + 1 < len(frames):
            middle = (y + down if is_wide else x + right) - _GAP // 2
            line = [(0, middle), (size[0], middle)] if is_wide else [(middle, 0), (middle, size[1])]
            draw.line(line, fill="black", width=2)
    return canvas


def tokenizer(folder: Path) -> Any:
    """The SentencePiece model in a folder.

    Raises:
        ModelError: It cannot be read, or lacks a token of the conversation's form.
    """
    file = folder / "tokenizer.model"
    try:
        found: Any = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read: {one_line(error)}") from error
    ids = {mark: found.piece_to_id(mark) for mark in (OPEN, CLOSE, REWARD)}
    lacking = [mark for mark, i in ids.items() if found.encode(mark) != [i]]
    lacking += ["<s> and </s>"] if min(found.bos_id(), found.eos_id()) < 0 else []
    if lacking:
        raise ModelError(f"{file} is of another model: it lacks {', '.join(lacking)}")
    return found


def _sizes(state: State, folder: Path, vocab: int, width: int) -> Sizes:
    file = folder / "config.json"
    config = read_json(file)
    names = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta")
    lacking = [
        name
        for name in names
        if not (isinstance(number := config.get(name), int | float) and number > 0)
    ]
    if lacking:
        raise ModelError(f"{file} names no {', '.join(lacking)}")
    heads, kv_heads, eps, theta = (config[name] for name in names)
    if width % heads or heads % kv_heads:
        raise ModelError(f"{file} has {heads} heads and {kv_heads} of keys for a width of {width}")
    layer = "model.layers.0.feed_forward.w1"
    return Sizes(
        width=width,
        inner=shape(state, f"{layer}.weight")[0],
        layers=depth(state, "model.layers"),
        heads=heads,
        kv_heads=kv_heads,
        vocab=vocab,
        rank=shape(state, f"{layer}.Plora_A.weight")[0],
        eps=eps,
        theta=theta,
    )


def _tower_sizes(state: State) -> TowerSizes:
    stem = "vit.vision_tower.vision_model"
    width, _, patch, _ = shape(state, f"{stem}.embeddings.patch_embedding.weight")
    positions = shape(state, f"{stem}.embeddings.position_embedding.weight")[0]
    side = square_side(positions)
    if side % 2 or side**2 + 1 != positions or side * patch != SIDE:
        raise ModelError(
            f"a tower of {positions} positions for patches of {patch} pixels is not one for "
            f"tiles of {SIDE}"
        )
    layers = f"{stem}.encoder.layers"
    return TowerSizes(
        width=width,
        inner=shape(state, f"{layers}.0.mlp.fc1.weight")[0],
        layers=depth(state, layers),
        patch=patch,
        side=SIDE,
    )
