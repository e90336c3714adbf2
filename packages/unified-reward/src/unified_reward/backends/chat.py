"""A processor and its chat template: requests to tokens and tensors, for training and judging."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unified_reward.core.requests import Request


class Chat:
    """A processor and its chat template: requests to tensors, the same for training and judging."""

    def __init__(self, processor: Any, *, max_pixels: int | None = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if max_pixels is not None:
            _cap_pixels(processor.image_processor, max_pixels)
        self.end: int = self.tokenizer.eos_token_id
        self.pad: int = self.tokenizer.pad_token_id
        if self.pad is None:
            self.pad = self.end
        self.branches = lru_cache(maxsize=1024)(self._branches)
        """Token ids all choices begin with behind ``head``, and how each goes on to its end."""
        self._remembered = lru_cache(maxsize=1024)(self._tokens_of)
        self._special = [t for t in self.tokenizer.all_special_tokens if len(t) > 1]

    def prompt(self, request: Request) -> str:
        """The request in the checkpoint's chat format, up to where the assistant speaks."""
        return self._prompt(_shape(request))

    def _prompt(self, shape: tuple[str | None, ...]) -> str:
        content = [
            {"type": "image"} if part is None else {"type": "text", "text": self._harmless(part)}
            for part in shape
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _tokens_of(self, shape: tuple[str | None, ...]) -> tuple[int, ...]:
        return tuple(self.tokens(self._prompt(shape)))

    def prompt_tokens(self, request: Request) -> tuple[int, ...]:
        """Token ids of ``prompt``, one for each picture."""
        return self._remembered(_shape(request))

    def _harmless(self, text: str) -> str:
        """Break up control tokens spelled out in a caption, which would act as control tokens."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def tokens(self, text: str) -> list[int]:
        """Token ids of a part of an answer, without added specials."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _branches(self, head: str, choices: tuple[str, ...]) -> tuple[list[int], list[list[int]]]:
        rows = [[*self.tokens(head + one), self.end] for one in choices]
        common = common_prefix(rows)
        return rows[0][:common], [row[common:] for row in rows]

    def batch(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Tensor]:
        """Prompts, each with the first tokens of its answer, as one left-padded batch.

        Args:
            requests: B user turns.
            continuations: Token ids behind each prompt; empty for none.

        Returns:
            What the model's forward takes: ``input_ids``, ``attention_mask`` (and, for Qwen,
            ``mm_token_type_ids``) of shape (B, T), and the pictures.
        """
        # By request: LLaVA tiles a picture only where it is alone in its request.
        pictures = [[p for p in one.parts if not isinstance(p, str)] for one in requests]
        inputs = dict(
            self.processor(
                text=[self.prompt(one) for one in requests],
                images=pictures if any(pictures) else None,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
        )
        kept = inputs["attention_mask"].bool()
        behind = continuations or [()] * len(requests)
        fills = {"input_ids": self.pad, "mm_token_type_ids": 0, "attention_mask": 0}
        for name in fills.keys() & inputs.keys():
            rows: list[list[int]] = []
            for row, mask, ids in zip(inputs[name], kept, behind, strict=True):
                added = ids if name == "input_ids" else [int(name == "attention_mask")] * len(ids)
                rows.append([*row[mask].tolist(), *added])
            width = max(map(len, rows))
            inputs[name] = torch.tensor([[fills[name]] * (width - len(row)) + row for row in rows])
        return inputs


def _shape(request: Request) -> tuple[str | None, ...]:
    """The parts of a request, each picture as None."""
    return tuple(part if isinstance(part, str) else None for part in request.parts)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share, leaving at least one token to each."""
    shared = 0
    shortest = min(map(len, rows)) - 1
    while shared < shortest and len({row[shared] for row in rows}) == 1:
        shared += 1
    return shared


def _cap_pixels(image_processor: Any, max_pixels: int) -> None:
    """Lower the largest picture a Qwen image processor makes; others have fixed tiles."""
    size = getattr(image_processor, "size", None)
    if size is None or "longest_edge" not in size:
        return
    low = min(size["shortest_edge"], max_pixels)
    high = min(size["longest_edge"], max_pixels)
    image_processor.size = type(size)(shortest_edge=low, longest_edge=high)
