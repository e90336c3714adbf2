"""VideoReward (Liu et al. 2025, arXiv:2501.13918): three rewards of a generated video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    lora_scale,
    merge_lora,
    read_json,
)
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Candidate, Sample, Task, Video
from unified_reward.core.verdicts import Score, Scored
from unified_reward.scorers.base import TOKENIZER, Prepared
from unified_reward.scorers.card import OPEN, Fact, ScoreCard
from unified_reward.scorers.qwen_vl import (
    PixelBounds,
    QwenScorer,
    chat,
    frame_rule,
    patched,
    target_size,
    worded,
)


_NAMES = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment"}
_TOKENS = tuple(f"<|{short}_reward|>" for short in _NAMES)
_BOUNDS = PixelBounds(128 * 28 * 28, 448 * 448)
_SETTINGS = {
    "fps": 2,
    "max_frame_pixels": _BOUNDS.most,
    "sample_type": "uniform",
    "prompt_template_type": "detailed_special",
}
"""``data_config`` in ``model_config.json``, as released."""


class VideoReward(QwenScorer):
    """Values at three tokens of the prompt, in its order, standardised and summed."""

    card = ScoreCard(
        name="videoreward",
        system="VideoReward (VideoAlign)",
        tasks=(Task.VIDEO_GENERATION,),
        paper="2501.13918",
        weights=("KwaiVGI/VideoReward", "KlingTeam/VideoReward"),
        values="standardised by the authors over their data; below 0 is common",
        aspects=tuple(_NAMES.values()),
        overall="the sum of the three standardised values, by the authors",
        constants={
            "VQ_mean": 3.6757,
            "VQ_std": 2.2476,
            "MQ_mean": 1.1646,
            "MQ_std": 1.3811,
            "TA_mean": 2.8105,
            "TA_std": 2.5121,
        },
        frames="2 a second, evenly from first to last, at least 4 and an even number; 448 x 448 "
        "pixels at most",
        wording=("VIDEOREWARD",),
        code_licence="MIT",
        weights_licence="Apache-2.0",
        deviations=(
            "frames by PyAV, not decord (the same pixels on x86)",
            "a video of one frame shows it twice (the released code fails on it)",
            "a video without a known rate is taken to have 2 frames a second",
            "mean and deviation from model_config.json where it has them, else as above",
        ),
        verified=(
            "values of a tiny twin in the released layout (PEFT names, adapters merged, positions "
            "counted), against float64 equations and transformers 4.45.2",
            "frame indices, pixels and the text before tokenising against golden values",
            "grids, and pixels to 0.002, of 22 clips as the released code prepares them",
        ),
    )
    weights = ("checkpoint-*/model.pth",)
    needed: ClassVar = {
        "configuration": ("model_config.json",),
        "tokenizer": tuple(
            f"{place}{name}"
            for place in ("checkpoint-*/tokenizer/", "checkpoint-*/", "")
            for name in TOKENIZER
        ),
    }
    medium = "video"
    reward_tokens = _TOKENS
    outputs = (1, 3)

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.constants = _constants(folder)

    @classmethod
    def tokenizer_folder(cls, folder: Path) -> Path:
        """``tokenizer`` beside the weights, or the folder of the weights, or the whole folder."""
        checkpoint = cls.files(folder)[0].parent
        for place in (checkpoint / "tokenizer", checkpoint, folder):
            if any(is_file(place / name) for name in TOKENIZER):
                return place
        raise ModelError(
            f"no tokenizer of {checkpoint}: {' or '.join(TOKENIZER)} lies in its folder tokenizer, "
            f"beside its weights, or in {folder}"
        )

    @classmethod
    def examine(cls, module: nn.Module, folder: Path) -> None:
        """Check the tokenizer, and what ``model_config.json`` says beside the adapters."""
        super().examine(module, folder)
        _constants(folder)
        settings = read_json(folder / "model_config.json").get("model_config") or {}
        if settings.get("use_special_tokens") is False:
            raise ModelError(
                f"{folder}/model_config.json has use_special_tokens false: its rewards are read at "
                "the last token, not at the three tokens of the released prompt"
            )

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Settings of frames and prompt, which are fixed here whatever the file says."""
        try:
            settings = read_json(folder / "model_config.json").get("data_config") or {}
        except ModelError:
            settings = {}
        found = [f"{name} {settings[name]}" for name in _SETTINGS if name in settings]
        wanted = ", ".join(f"{name} {value}" for name, value in _SETTINGS.items())
        question = "frames and prompt of these weights"
        settled = f"this scorer has {wanted}; other settings need another scorer"
        return [Fact(question, ", ".join(found) or "nothing", settled)]

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Adapters merged with the scale in ``model_config.json``."""
        return merge_lora(super().translate(state, folder), _lora_scale(folder))

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Frames resized as tensors and cut to patches; the caption within its prompt."""
        text = chat("video", worded("VIDEOREWARD", sample.prompt, _TOKENS))
        frames, notes = sampled(sample.candidates[0], 2.0)
        patches, grid = patched(resized(frames, _BOUNDS))
        return Prepared(text, patches, grid=grid, notes=notes)

    def decode(self, raw: Sequence[float]) -> Scored:
        """Standardised values by aspect, and their sum; of three outputs at a token, its own."""
        own = raw if len(raw) == len(_NAMES) else raw[:: len(_NAMES) + 1]
        values = [
            (one - self.constants[f"{short}_mean"]) / self.constants[f"{short}_std"]
            for short, one in zip(_NAMES, own, strict=True)
        ]
        aspects = dict(zip(self.card.aspects, (Score(one, OPEN) for one in values), strict=True))
        return Scored(Score(sum(values), OPEN), aspects)


def sampled(candidate: Candidate, per_second: float) -> tuple[Tensor, tuple[str, ...]]:
    """Sample frames of a video, uint8 of shape (n, 3, H, W), with notes on repeated ones."""
    if not isinstance(candidate, Video):
        raise DataError(f"a video was expected, not a {type(candidate).__name__}")
    clip = media.select_frames(candidate, frame_rule(per_second), exact=False)
    notes = (
        () if not clip.n_repeated else (f"the video has {clip.n_source} frames; some shown twice",)
    )
    return torch.from_numpy(clip.pixels).permute(0, 3, 1, 2), notes


def resized(frames: Tensor, bounds: PixelBounds) -> Tensor:
    """Frames resized as float tensors (bicubic, antialias), rounded to grey values, as float."""
    height, width = frames.shape[-2:]
    size = target_size(height, width, bounds)
    fitted = tv.resize(frames.float(), [*size], tv.InterpolationMode.BICUBIC, antialias=True)
    return fitted.round().clamp(0, 255)


def _constants(folder: Path) -> dict[str, float]:
    file = folder / "model_config.json"
    given = read_json(file).get("inference_config") or {}
    constants = {**VideoReward.card.constants, **given}
    for name in VideoReward.card.constants:
        value = constants[name]
        if not isinstance(value, int | float) or (name.endswith("_std") and value <= 0):
            raise ModelError(
                f"{file} has {name} {value!r}; means are numbers, deviations positive ones"
            )
    return constants


def _lora_scale(folder: Path) -> float:
    config = read_json(folder / "model_config.json").get("peft_lora_config") or {}
    rank, alpha = config.get("lora_r"), config.get("lora_alpha")
    if not rank or not alpha:
        raise ModelError(f"{folder}/model_config.json names no lora_r and lora_alpha")
    return lora_scale(rank, alpha, stabilised=bool(config.get("use_rslora")))
