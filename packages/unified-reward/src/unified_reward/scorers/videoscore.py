"""VideoScore (He et al. 2024, arXiv:2406.15252): five scores of a generated video.

v1 and v1.1 are an Idefics2 with a linear head, VideoScore-Qwen2-VL is a Qwen2-VL with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from transformers import Idefics2Config, Idefics2ImageProcessorPil, Idefics2Model

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    read_json,
    rename_keys,
    shape,
)
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.samples import Sample, Task, Video
from unified_reward.core.verdicts import Scale, Score, Scored
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.qwen_vl import TEMPORAL, PixelBounds, QwenScorer, chat, patched, worded
from unified_reward.scorers.videoreward import resized, sampled


_SCALE = Scale(None, None)
_MARK, _FENCE = "<image>", "<fake_token_around_image>"
_MARKS = (_MARK, _FENCE, "<s>", "</s>", "<unk>", "<end_of_utterance>")
_FIT: Any = Idefics2ImageProcessorPil()
_LEVELS = PIL.Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1))
_NORMALISED = _FIT([[_LEVELS]], return_tensors="np", do_resize=False).pixel_values[0, 0, 0, 0]
"""Every value of a pixel, of any colour, as transformers normalises it, float32, shape (256,)."""
_V1 = ScoreCard(
    name="videoscore",
    system="VideoScore v1",
    tasks=(Task.VIDEO_GENERATION,),
    paper="2406.15252",
    weights=("TIGER-Lab/VideoScore",),
    values="a regression of grades from 1 to 4, which it may leave by a little",
    aspects=(
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    ),
    overall="the mean of the five, a convention of this library: the authors define none",
    frames="all up to 16, else every (total / 16)th, positions cut off",
    wording=("VIDEOSCORE",),
    code_licence="MIT",
    weights_licence="Apache-2.0",
    deviations=(
        "the norms of the resampler have the epsilon of the language model, as transformers 4.45 "
        "built them; transformers 5 has another default",
    ),
    verified=(
        "values of a tiny twin in the released layout, against float64 equations",
        "frame indices, pixels and the text before tokenising against golden values",
    ),
    open_questions=("scores fall below 240 pixels a side, users say",),
)


class VideoScore(Scorer):
    """A linear head at the last token, which is what the space behind the last frame becomes."""

    card = replace(
        _V1,
        verified=(
            *_V1.verified,
            "values of the twin against transformers 4.45.2 with its tokenizer and processor, to "
            "3e-6; ids are those of the folder's tokenizer.json",
        ),
    )
    frames: ClassVar[int] = 16
    weights = ("model.safetensors", "model.safetensors.index.json")
    needed: ClassVar = {"configuration": ("config.json",), **Scorer.needed}

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer: Any = load_tokenizer(folder)
        config = self.module.model.config
        self._latents: int = config.perceiver_config.resampler_n_latents
        ids = self.tokenizer.convert_tokens_to_ids([_MARK, _FENCE])
        if ids[0] != config.image_token_id or None in ids:
            raise ModelError(f"the tokenizer in {folder} has no {_MARK} and {_FENCE} as configured")

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """An Idefics2 of the sizes in ``config.json``, with the resampler's epsilon of training."""
        given = {**read_json(folder / "config.json")}
        config: Any = Idefics2Config.from_dict(given)
        config.perceiver_config.rms_norm_eps = config.text_config.rms_norm_eps
        outputs, width = shape(state, "score.weight")
        head = nn.Linear(width, outputs, bias="score.bias" in state)
        return nn.ModuleDict({"model": Idefics2Model(config), "score": head})

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Names are those of transformers already."""
        return rename_keys(state, ())

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Frames fitted one by one; no chat turns, the marks of the frames behind the prompt."""
        clip = sample.candidates[0]
        if not isinstance(clip, Video):
            raise DataError(f"a video was expected, not a {type(clip).__name__}")
        words = worded("VIDEOSCORE", sample.prompt, _MARKS)
        frames = media.select_frames(clip, first_frames(cls.frames), exact=False).images()
        text = words + f"{_MARK} " * len(frames)
        return Prepared(text, *fitted(frames))

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Five values, shape (B, 5). One video a pass, as released: nothing is padded."""
        return torch.cat([self._one(prepared) for prepared in batch])

    def _one(self, prepared: Prepared) -> Tensor:
        image_tokens = f"{_FENCE}{_MARK * self._latents}{_FENCE}"
        ids = self.tokenizer(
            prepared.text.replace(_MARK, image_tokens), return_tensors="pt"
        ).input_ids
        hidden = self.module.model(
            input_ids=ids.to(self.device),
            pixel_values=prepared.pixels[None].to(self.device, self.dtype),
            pixel_attention_mask=prepared.mask[None].to(self.device),
            use_cache=False,
        ).last_hidden_state
        return self.module.score(hidden[:, -1])

    def decode(self, raw: Sequence[float]) -> Scored:
        """Five aspects and their mean."""
        return averaged(self.card, raw)


class VideoScore11(VideoScore):
    """Later weights, made to heed the caption."""

    card = replace(
        VideoScore.card,
        name="videoscore-v1.1",
        system="VideoScore v1.1",
        weights=("TIGER-Lab/VideoScore-v1.1",),
        weights_licence="MIT",
        frames="all up to 48, else every (total / 48)th, positions cut off",
    )
    frames = 48


class VideoScoreQwen(QwenScorer):
    """The five scores of VideoScore, on a Qwen2-VL."""

    card = replace(
        _V1,
        name="videoscore-qwen2-vl",
        system="VideoScore-Qwen2-VL",
        weights=("TIGER-Lab/VideoScore-Qwen2-VL",),
        values="as VideoScore, on a scale of its own",
        frames="8 a second, evenly from first to last, at least 4 and an even number",
        deviations=(
            "frames by PyAV, not decord (the same pixels on x86)",
            "a video of one frame shows it twice (the released code fails on it)",
            "a video without a known rate is taken to have 8 frames a second",
        ),
        verified=(
            *_V1.verified,
            "grids, and pixels to 0.002, of 13 clips as the released code prepares them",
        ),
        open_questions=("checkpoints with score_type special_token, which are refused",),
    )
    weights = VideoScore.weights
    needed: ClassVar = {"configuration": ("config.json",), **Scorer.needed}
    medium = "video"
    head_name = "score"
    outputs = (5,)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A Qwen2-VL of the sizes in ``config.json``."""
        if read_json(folder / "config.json").get("score_type") == "special_token":
            raise ModelError("heads that are read at tokens of their own are not supported")
        return super().skeleton(state, folder)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Frames resized as tensors within a budget; the caption within its prompt."""
        text = chat("video", worded("VIDEOSCORE", sample.prompt))
        frames, notes = sampled(sample.candidates[0], 8.0)
        patches, grid = patched(resized(frames, budget(len(frames))))
        return Prepared(text, patches, grid=grid, notes=notes)

    def decode(self, raw: Sequence[float]) -> Scored:
        """Five aspects and their mean."""
        return averaged(self.card, raw)


def fitted(frames: Sequence[media.PILImage]) -> tuple[Tensor, Tensor]:
    """Frames as Idefics2's processor makes them, to the bit, at about half of its time.

    Returns:
        Pixels, float32 of shape (n, 3, H, W), and their mask, int64 of shape (n, H, W).
    """
    done = _FIT([[*frames]], return_tensors="np", do_rescale=False, do_normalize=False)
    levels = done.pixel_values[0]
    pixels = np.empty(levels.shape, np.float32)
    for frame, values in zip(levels, pixels, strict=True):  # one by one, for short memory
        _NORMALISED.take(frame, out=values, mode="clip")
    return torch.from_numpy(pixels), torch.from_numpy(done.pixel_attention_mask[0])


def first_frames(most: int) -> Callable[[int, Any], tuple[int, ...]]:
    """Every frame, or ``arange(0, total, total / most)`` cut to whole numbers.

    >>> first_frames(4)(10, None), first_frames(4)(3, None)
    ((0, 2, 5, 7), (0, 1, 2))
    """

    def choose(total: int, _: Any) -> tuple[int, ...]:
        if total <= most:
            return tuple(range(total))
        return tuple(int(i) for i in np.arange(0, total, total / most).astype(int))

    return choose


def budget(n_frames: int) -> PixelBounds:
    """Bounds of a frame's area where a whole video has so many pixels.

    >>> budget(8).most == 768 * 28 * 28
    True
    """
    least, most, whole = 128 * 28 * 28, 768 * 28 * 28, 24_576 * 28 * 28
    return PixelBounds(least, max(min(most, whole // n_frames * TEMPORAL), int(least * 1.05)))


def averaged(card: ScoreCard, raw: Sequence[float]) -> Scored:
    """Values by aspect, and their mean as the overall score."""
    aspects = dict(zip(card.aspects, (Score(one, _SCALE) for one in raw), strict=True))
    return Scored(Score(sum(raw) / len(raw), _SCALE), aspects)
