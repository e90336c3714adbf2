"""VisionReward-Video (Xu et al. 2024, arXiv:2412.21059): 29 weighted questions about a video.

A CogVLM2-Video, whose language model is a Llama 3 without a visual expert. Frames, with their
ordinal numbers behind them, stand before each question and are computed once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, read_json, rename_keys
from unified_reward.core.errors import DataError, MediaError, ModelError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Sample, Task, Video
from unified_reward.core.verdicts import Scale, Score, Scored, Unparsed
from unified_reward.media import FrameChooser
from unified_reward.scorers import open_facts
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import Fact, ScoreCard
from unified_reward.scorers.checklists import VIDEO_SCALE, Checklist, visionreward
from unified_reward.scorers.cogvlm import CogVLM, Sizes, positions, sizes
from unified_reward.scorers.images import MEAN, STD, check_length


FRAMES = 24
SIDE = 224
_UNIT = Scale(0, 1)
_LLAMA = 128_256
"""Tokens of Llama 3; ids that any of its tokenizers gives are checked."""
_PROBES = {"yes": [9891], "no": [2201], "Question: a Answer:": [14924, 25, 264, 22559, 25]}
CONTROL = re.compile(r"<\|\w+\|>")
"""Control tokens of Llama 3."""


class VisionRewardVideo(Scorer):
    """The first token behind each question is read; the weighted answers are averaged."""

    card = ScoreCard(
        name="visionreward-video",
        system="VisionReward-Video",
        tasks=(Task.VIDEO_GENERATION,),
        paper="2412.21059",
        weights=("THUDM/VisionReward-Video", "zai-org/VisionReward-Video"),
        values="mean of 29 weighted answers, -0.2165 to 0.2165; a video that answers all with no "
        "has the lowest",
        overall="29 published weights, by the authors",
        scale=VIDEO_SCALE,
        frames="the frame nearest to each second, at most 24",
        temperature=1 / 29,
        temperature_source="this library: the logistic of the summed differences, whose sign the "
        "released comparison takes; nobody has calibrated it",
        wording=("VISIONREWARD-VIDEO",),
        code_licence="Apache-2.0",
        weights_licence="CogVLM2 and Llama 3",
        deviations=(
            "yes and no count in any spelling of their first token, where the released code counts "
            "`yes` alone and all else as no; its value stands in the notes",
            "an answer that is neither leaves the candidate unparsed",
            "equal videos are a tie; the released comparison prefers the second",
            "frames by PyAV, not decord (the same colours on x86); a video without a known rate "
            "has one frame a second",
            "a question longer than the 2048 tokens of the configuration fails",
            "frames of more than 1337 to 1 fail",
        ),
        verified=(
            "names and shapes of its 1029 tensors: headers and index of the six published shards, "
            "rebuilt, have their sha256",
            "logits of a tiny twin in the released layout, against float64 equations, from pixels "
            "on",
            "pixels, positions, and token ids of the published run against golden values",
        ),
        open_questions=(
            "rotary angles in bfloat16 (the default) or float32: `module.angles`",
            "a folder of cogvlm2-llama3-caption has the same names, shapes and configuration, and "
            "loads: the sha256 of the first shard of this one begins with 896bfc94",
            "whether the released weights answer `yes` or `Yes`: reports differ",
        ),
    )
    weights = ("model.safetensors.index.json",)
    needed: ClassVar = {"configuration": ("config.json",), "tokenizer": ("tokenizer.json",)}

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        config = read_json(folder / "config.json")
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()  # a file may ask for either
        self.tokenizer.no_padding()
        self._first: int = config.get("bos_token_id", 128_000)
        self._longest: int = config.get("max_position_embeddings", 2048)
        self._answers = yes_no_tokens(self.tokenizer)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A CogVLM2 as large as the tensors, which ``config.json`` must agree with."""
        size = sizes(state)
        _check_config(size, read_json(folder / "config.json"), folder)
        if is_file(file := folder / "tokenizer.json"):
            check_tokenizer(Tokenizer.from_file(str(file)), size, folder)
        return CogVLM(size)

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Names are those of the module already."""
        return rename_keys(state, ())

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Open questions that the files of a folder answer."""
        return open_facts.visionreward_video(folder)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """A frame a second as pixels; the caption goes into the questions later."""
        clip = sample.candidates[0]
        if not isinstance(clip, Video):
            raise DataError(f"a video was expected, not a {type(clip).__name__}")
        if mark := CONTROL.search(sample.prompt):
            raise DataError(f"the caption holds {mark[0]!r}, which is not read as text")
        visionreward(cls.card)
        places = each_second(media.frame_times(clip), FRAMES)
        frames = media.select_frames(clip, places, exact=False)
        return Prepared(sample.prompt, fitted(torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)))

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """First token of each answer, shape (B, 29); not a number where a logit is none."""
        rows: list[Tensor] = []
        for prepared in batch:
            logits = self.logits(prepared)
            is_finite = logits.isfinite().all(-1)
            rows.append(logits.argmax(-1).float().masked_fill(~is_finite, float("nan")))
        return torch.stack(rows)

    def logits(self, prepared: Prepared) -> Tensor:
        """Logits behind each question about one video, shape (29, vocabulary).

        Raises:
            ValueError: Frames and question are longer than the model takes.
        """
        module: CogVLM = self.module
        frames = module.visual_tokens(prepared.pixels.to(self.device, self.dtype))
        parts, places = [module.embed([self._first])], [0]
        for i, frame in enumerate(frames):
            ordinal = self._ids(str(i))
            parts += [frame, module.embed(ordinal)]
            places += positions(places[-1] + 1, len(frame) - 2)
            places += range(places[-1] + 1, places[-1] + 1 + len(ordinal))
        questions = [self._ids(text) for text in worded(self._checklist, prepared.text)]
        n_tokens = len(places) + max(map(len, questions))
        if n_tokens > self._longest:
            raise ValueError(
                f"{len(frames)} frames and a question are {n_tokens} tokens; the model takes "
                f"{self._longest}: shorten the caption"
            )
        prefix = module.encode(torch.cat(parts), places)
        return module.last_logits(prefix, questions, places[-1] + 1)

    def decode(self, raw: Sequence[float]) -> Scored | Unparsed:
        """Every answer as an aspect, 1 for yes; unparsed if one is neither yes nor no."""
        spelled = [self.tokenizer.decode([int(one)]) for one in raw]
        answers = [self._answers.get(int(one)) for one in raw]
        unread = [word for word, one in zip(spelled, answers, strict=True) if one is None]
        if unread:
            reason = f"{len(unread)} of {len(answers)} answers are neither yes nor no"
            return Unparsed(reason, unread[0])
        chances = [float(bool(one)) for one in answers]
        strict = [float(word == "yes") for word in spelled]
        checklist = self._checklist
        names = (question.text.strip() for question in checklist.questions)
        aspects = {name: Score(one, _UNIT) for name, one in zip(names, chances, strict=True)}
        words = ", ".join(f"{spelled.count(word)} {word!r}" for word in sorted({*spelled}))
        note = f"answers {words}; as the released code counts: {checklist.score(strict):.10g}"
        return Scored(Score(checklist.score(chances), self.card.scale), aspects, note)

    @property
    def _checklist(self) -> Checklist:
        return visionreward(self.card)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def worded(checklist: Checklist, caption: str) -> list[str]:
    """Texts behind the frames; questions keep the line end that the published file gives them."""
    texts = (question.text.replace("[[prompt]]", caption) for question in checklist.questions)
    return [f"Question: {text} Answer:" for text in texts]


def each_second(times: Sequence[float], most: int) -> FrameChooser:
    """The frame that begins nearest to each whole second, the first of two; the first ``most``.

    Without times, or if there are more or fewer frames than times, frames follow one another at
    the rate of the video, or one a second.

    >>> each_second([i / 24 for i in range(124)], 24)(124, lambda: None)
    (0, 24, 48, 72, 96, 120)
    """

    def choose(total: int, rate: media.FrameRate) -> tuple[int, ...]:
        if total < 1:
            raise MediaError("a video without frames cannot be sampled")
        starts = times if len(times) == total else [i / (rate() or 1.0) for i in range(total)]
        seconds = range(min(round(max(starts)) + 1, most))
        return tuple(min(range(total), key=lambda i: abs(starts[i] - s)) for s in seconds)

    return choose


def fitted(frames: Tensor) -> Tensor:
    """Frames as the released code prepares them, float32 of shape (n, 3, 224, 224).

    Normalised, then the short side resized without antialiasing, then the middle square.

    Args:
        frames: uint8, shape (n, 3, H, W).

    Raises:
        MediaError: They are too long.
    """
    check_length(*frames.shape[-2:])
    short = min(frames.shape[-2:])
    size = [int(side / short * SIDE) for side in frames.shape[-2:]]
    top, left = (round((side - SIDE) / 2) for side in size)
    fit: list[Tensor] = []
    for frame in frames.split(1):  # all at once, those of a long or large video fill the memory
        pixels = tv.normalize(frame.float() / 255, MEAN, STD)
        resized = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        fit.append(resized[..., top : top + SIDE, left : left + SIDE].clone())
    return torch.cat(fit)


def yes_no_tokens(tokenizer: Tokenizer) -> Mapping[int, bool]:
    """True for tokens that spell yes, False for no, in any case, with or without a blank."""
    words = (f"{blank}{word}" for word in ("yes", "no") for blank in ("", " "))
    spellings = [form for word in words for form in (word, word.title(), word.upper())]
    encoded = ((form, tokenizer.encode(form, add_special_tokens=False).ids) for form in spellings)
    return {ids[0]: form.strip().lower() == "yes" for form, ids in encoded if len(ids) == 1}


def check_tokenizer(tokenizer: Tokenizer, size: Sizes, folder: Path) -> None:
    """Refuse a tokenizer that does not fit the weights.

    Raises:
        ModelError: It knows other tokens.
    """
    probes: Mapping[str, Any] = _PROBES if size.vocabulary == _LLAMA else {"yes": None, "no": None}
    for text, wanted in probes.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if ids != (wanted or ids[:1]) or max(ids, default=size.vocabulary) >= size.vocabulary:
            raise ModelError(
                f"the tokenizer in {folder} is not that of these weights: {text!r} is {ids}, "
                f"where {wanted or f'one token below {size.vocabulary}'} is right"
            )


def _check_config(size: Sizes, config: Mapping[str, Any], folder: Path) -> None:
    if size.has_expert:
        raise ModelError(
            f"{folder} holds a CogVLM2 with a visual expert, which answers about images; "
            "VisionReward-Video has none"
        )
    if config.get("template_version") == "chat":
        raise ModelError(
            f"{folder}/config.json has template_version 'chat', that of the base model "
            "cogvlm2-video-llama3-chat; VisionReward-Video has 'base'"
        )
    tower: Mapping[str, Any] = config.get("vision_config") or {}
    wanted = {
        "hidden_size": (config.get("hidden_size"), size.width),
        "num_hidden_layers": (config.get("num_hidden_layers"), size.layers),
        "num_attention_heads": (config.get("num_attention_heads"), size.heads),
        "num_multi_query_heads": (config.get("num_multi_query_heads"), size.key_heads),
        "vision_config.hidden_size": (tower.get("hidden_size"), size.tower.width),
        "vision_config.num_hidden_layers": (tower.get("num_hidden_layers"), size.tower.layers),
        "vision_config.image_size": (tower.get("image_size"), size.tower.side),
    }
    for name, (given, found) in wanted.items():
        if given != found:
            raise ModelError(f"{folder}/config.json has {name} {given}, its tensors {found}")
    if size.tower.side != SIDE:
        raise ModelError(
            f"frames of {size.tower.side} pixels a side; VisionReward-Video has {SIDE}"
        )
