"""Plain ways of asking: the published loop and a competent batch, by transformers alone.

The answers of a random model never end, so that each has the length that is wanted. What it would
have said is read from its cache: the choice that it finds most probable.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor

from benchmarks.real_shapes_parts.tokens import Row, keyed
from unified_reward.core.requests import Request
from unified_reward.core.samples import Sample
from unified_reward.judges.card import build_request
from unified_reward.judges.generative import GenerativeJudge


_ROWS, _TOKENS = 16, 2304
"""Largest batch of the competent way, in requests, and in tokens if there are several: a core is
slower by a tenth where the tensors of a pass leave its cache."""
_CACHED_TOKENS = 65_536
"""Most tokens in copies of a cache, when choices are read."""


class Asked(NamedTuple):
    """Questions that were answered in a plain way."""

    seconds: dict[int, float]
    """Processor time by length of the answers in tokens."""
    logprobs: list[tuple[float, ...]]
    """Log-probability of each choice of each question."""
    rows: list[Row]
    """Tokens of each question."""


class Plain:
    """A judge's model and processor, asked without the library."""

    def __init__(self, judge: GenerativeJudge) -> None:
        self._card = judge.card
        self._model = judge.model.model
        self._processor = judge.model.chat.processor
        self._image_token: int = self._model.config.image_token_id
        tokenizer = self._processor.tokenizer
        self._end, self._pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def loop(self, questions: Sequence[Sample], lengths: Sequence[int]) -> list[Asked]:
        """Each question alone: files opened, prepared and encoded anew, an answer to its end."""
        return [self._asked([question], lengths) for question in questions]

    def batch(self, questions: Sequence[Sample], lengths: Sequence[int]) -> Asked:
        """Questions in batches of similar lengths; files are opened once, encoded by request."""
        return self._asked(questions, lengths)

    @torch.inference_mode()
    def _asked(self, questions: Sequence[Sample], lengths: Sequence[int]) -> Asked:
        started = time.process_time()
        opened: dict[Any, Any] = {}
        requests = [build_request(question, self._card, opened) for question in questions]
        images = {
            id(image): k
            for k, image in enumerate(image for request in requests for image in request.images)
        }
        seconds = dict.fromkeys(lengths, time.process_time() - started)
        found: dict[int, tuple[tuple[float, ...], Row]] = {}
        for places in batches([self._size(request) for request in requests]):
            part = [requests[i] for i in places]
            started = time.process_time()
            inputs = self._inputs(part)
            stamps = _Stamps()
            out = self._generate(inputs, max(lengths), stamps)
            for n in lengths:
                seconds[n] += stamps.times[n - 1] - started
            rows = [
                keyed(
                    ids[mask.bool()].tolist(),
                    self._image_token,
                    [images[id(image)] for image in request.images],
                )
                for ids, mask, request in zip(
                    inputs["input_ids"], inputs["attention_mask"], part, strict=True
                )
            ]
            logprobs = self._choices(part, inputs, out.cache, max(lengths), stamps.first)
            found |= zip(places, zip(logprobs, rows, strict=True), strict=True)
        in_order = [found[i] for i in range(len(requests))]
        return Asked(seconds, [logprobs for logprobs, _ in in_order], [row for _, row in in_order])

    def _size(self, request: Request) -> int:
        """Approximate number of tokens."""
        texts = sum(len(part) for part in request.parts if isinstance(part, str))
        per_image = self._card.max_pixels or 0
        side = self._processor.image_processor.patch_size * 2
        return texts // 5 + len(request.images) * per_image // side**2

    def _inputs(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        turns = [
            [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in request.parts
            ]
            for request in requests
        ]
        texts = [
            self._processor.apply_chat_template(
                [{"role": "user", "content": turn}], add_generation_prompt=True
            )
            for turn in turns
        ]
        return self._processor(
            text=texts,
            images=[request.images for request in requests],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    def _generate(self, inputs: dict[str, Tensor], n: int, stamps: _Stamps) -> Any:
        greedy = GenerationConfig(
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            eos_token_id=self._end,
            pad_token_id=self._pad,
            return_dict_in_generate=True,
        )
        return self._model.generate(**inputs, generation_config=greedy, logits_processor=[stamps])

    def _choices(
        self,
        requests: Sequence[Request],
        inputs: dict[str, Tensor],
        cache: Any,
        n_generated: int,
        first: Tensor,
    ) -> list[tuple[float, ...]]:
        """Log-probabilities of the choices, each on a copy of the cache of its prompt."""
        if n_generated > 1:
            cache.crop(1 - n_generated)
        mask = inputs["attention_mask"]
        last = self._positions(inputs).amax((0, 2))
        jobs = [
            (i, ids) for i, request in enumerate(requests) for ids in self._tails(request.choices)
        ]
        found: list[list[float]] = [[] for _ in requests]
        most = max(_CACHED_TOKENS // mask.shape[1], 1)
        for start in range(0, len(jobs), most):
            part = jobs[start : start + most]
            owners = torch.tensor([i for i, _ in part])
            copied = copy.deepcopy(cache)
            copied.reorder_cache(owners)
            ids = _padded([row[:-1] for _, row in part])
            valid = _padded([[1] * (len(row) - 1) for _, row in part])
            steps = torch.arange(1, ids.shape[1] + 1)
            logits = self._model(
                input_ids=ids,
                attention_mask=torch.cat([mask[owners], valid], 1),
                position_ids=(last[owners, None] + steps).expand(3, -1, -1),
                cache=copied,
            ).logits
            for (i, row), predicted in zip(part, logits, strict=True):
                rest = predicted[: len(row) - 1].log_softmax(-1)
                tail = sum(float(rest[k, token]) for k, token in enumerate(row[1:]))
                found[i].append(float(first[i].log_softmax(-1)[row[0]]) + tail)
        return [(*logprobs,) for logprobs in found]

    def _positions(self, inputs: dict[str, Tensor]) -> Tensor:
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        given = {name: inputs[name] for name in names if name in inputs}
        return self._model.model.get_rope_index(**given)[0]

    def _tails(self, choices: Sequence[str]) -> list[list[int]]:
        tokenizer = self._processor.tokenizer
        return [tokenizer(choice)["input_ids"] + [self._end] for choice in choices]


class _Stamps(LogitsProcessor):
    """Processor time at which each token of an answer is about to be chosen."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.first = torch.empty(0)
        """Logits of the first token, shape (B, vocabulary)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits as they are, shape (B, vocabulary); the ids are not used."""
        self.times.append(time.process_time())
        if len(self.times) == 1:
            self.first = scores.clone()
        return scores


def batches(sizes: Sequence[int]) -> Iterable[list[int]]:
    """Places in batches, sorted by size."""
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        # Short and long questions, such as scores and comparisons of clips, are not mixed.
        if batch and (
            sizes[i] > 1.2 * sizes[batch[0]]
            or len(batch) == _ROWS
            or (len(batch) + 1) * sizes[i] > _TOKENS
        ):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    return pad_sequence([torch.tensor([*row]) for row in rows], batch_first=True)
