"""The tiny base: an ordinary Qwen3-VL checkpoint, small enough for a CPU, with its own tokenizer.

Builds and trains the checkpoint; its training data are the lessons of the microworld.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image as Pillow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from unified_reward.backends.chat import Chat
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Video
from unified_reward.prompts import TEMPLATES
from unified_reward.train.optim import OptimConfig
from unified_reward.train.sft import ChatExample, fit
from unified_reward_lab.microworld import corpus, lesson
from unified_reward_lab.train.vision import VisionWarmup, warm_up


_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_CHAT = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type in ('image', 'image_url') -%}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{%- endif -%}{%- endfor -%}{%- endif -%}<|im_end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant",
    "fields": {"content": {"close": "<|im_end|>", "content": "text"}},
}
"""Position of the answer in a conversation: a server that assumes Qwen's own format, with a line
break after the role, returns the role as part of the answer."""
_PATCH, _MERGE, _SIDE = 16, 2, 64


def build_tokenizer(texts: Iterable[str], *, vocabulary: int = 640) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: common words are one token, any text has some.

    Args:
        texts: Texts whose words become short token sequences.
        vocabulary: Number of tokens, including the 256 bytes and the control tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        response_template=_RESPONSE,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=[t for t in _SPECIAL if t != "<|im_end|>"],
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Build the processor of the tiny base: images of about 64 x 64 pixels, one token per cell."""
    shared: dict[str, Any] = {"patch_size": _PATCH, "merge_size": _MERGE}
    area = _SIDE * _SIDE
    size = {"shortest_edge": area, "longest_edge": area}
    images = Qwen2VLImageProcessor(size=size, temporal_patch_size=1, **shared)
    videos = Qwen3VLVideoProcessor(size=size, temporal_patch_size=1, **shared)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=_CHAT)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """Build the tiny base with random weights, about 1.9 M parameters; seed torch before."""
    heads = 4
    width = 128
    ids: dict[str, Any] = {k: tokenizer.convert_tokens_to_ids(v) for k, v in TOKENS.items()}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": width // heads,
            "max_position_embeddings": 16_384,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": heads,
            "patch_size": _PATCH,
            "spatial_merge_size": _MERGE,
            "temporal_patch_size": 1,
            "out_hidden_size": width,
            "num_position_embeddings": (_SIDE // _PATCH) ** 2,
            "deepstack_visual_indexes": [0, 1],
        },
        **ids,
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


_WEIGHTS = {
    "grid": 0.13,
    "caption": 0.05,
    "question": 0.25,
    "facts": 0.22,
    "fact": 0.12,
    "check": 0.13,
    "choice": 0.1,
}


@dataclass(frozen=True)
class Polish:
    """A further run of lessons, in which the vision tower is trained too."""

    optim: OptimConfig
    lessons: Mapping[str, float] = field(default_factory=lambda: _WEIGHTS)
    """Relative weights of the kinds of lessons."""
    videos: float = 0.5
    """Share of videos among the lessons, in [0, 1]."""


@dataclass(frozen=True)
class TinyPretraining:
    """Training settings of the tiny base."""

    optim: OptimConfig
    lessons: Mapping[str, float] = field(default_factory=lambda: _WEIGHTS)
    """Relative weights of the kinds of lessons."""
    polish: tuple[Polish, ...] = ()
    vision: VisionWarmup = field(default_factory=VisionWarmup)
    frames: int = 4
    """Number of frames of a video."""
    videos_from: float = 0.35
    """Fraction of the run after which videos begin, in [0, 1]."""
    videos: float = 0.5
    """Share of videos among the lessons from then on, in [0, 1]."""
    processes: int = 1
    """Number of processes of the run; they share the lessons."""


def _tokenizer_texts(seed: int) -> Iterator[str]:
    """Texts to train the tokenizer on: the microworld's words and the compact prompts."""
    yield from corpus(20_000, seed)
    for template in (one for one in TEMPLATES.values() if one.family.name == "compact"):
        bare = re.sub("⟪.*?⟫", "", template.prompt)
        yield from [f"user\n{bare} assistant\n"] * 200
        yield from template.choices * 200


class LessonTurns:
    """Lessons in blocks of one kind, so that the sequences of a batch have similar lengths."""

    def __init__(self, config: TinyPretraining) -> None:
        self._config = config
        optim = config.optim
        self._length = optim.steps * optim.batch_size * optim.accumulate * config.processes

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ChatExample:
        taught = lesson(self._kind(index), seed=self._config.optim.seed, index=index)
        images = [p for medium in taught.media for p in self._images(medium)]
        return ChatExample(Request((*images, taught.question)), taught.answer)

    def _kind(self, index: int) -> str:
        config = self._config
        block = index // config.optim.batch_size
        rng = np.random.default_rng([config.optim.seed, block])
        is_video = index >= config.videos_from * len(self) and rng.random() < config.videos
        shares = np.array([*config.lessons.values()])
        what = rng.choice([*config.lessons], p=shares / shares.sum())
        return f"{'video' if is_video else 'image'}_{what}"

    def _images(self, medium: Image | Video) -> list[Pillow.Image]:
        if isinstance(medium, Image):
            return [Pillow.fromarray(medium.source)]
        at = np.linspace(0, len(medium.source) - 1, self._config.frames).astype(int)
        return [Pillow.fromarray(medium.source[i]) for i in at]


def pretrain(config: TinyPretraining, out: Path) -> list[tuple[int, float]]:
    """Build the tiny base, train it on lessons of the microworld and save its checkpoint.

    The vision tower is warmed up first and then frozen: it would forget shapes as long as the
    language model does not use it yet (docs/log.md). It is trained again in the ``polish`` runs.

    Args:
        config: Training settings.
        out: Folder of the new checkpoint.

    Returns:
        Loss in nats per answer token by optimiser step.
    """
    torch.manual_seed(config.optim.seed)
    tokenizer = build_tokenizer(_tokenizer_texts(config.optim.seed))
    chat = Chat(build_processor(tokenizer))
    model = build_model(tokenizer)
    warm_up(model, chat, config.vision, seed=config.optim.seed)
    model.model.visual.requires_grad_(False)  # noqa: FBT003  its name and place are torch's
    turns = LessonTurns(config)
    model, losses = fit(model, chat, turns, config.optim, out, title="training the base")
    model.model.visual.requires_grad_(True)  # noqa: FBT003  its name and place are torch's
    for i, polish in enumerate(config.polish):
        again = replace(config, **vars(polish), videos_from=0.0)
        folder = out / f"polish-{i}"
        model, more = fit(model, chat, LessonTurns(again), polish.optim, folder, title="polishing")
        losses += [(losses[-1][0] + step, loss) for step, loss in more]
    if PartialState().is_main_process:
        model.save_pretrained(out)
        chat.processor.save_pretrained(out)
    return losses
