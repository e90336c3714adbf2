"""A local vision-language checkpoint as a model.

It takes images and text in order and knows neither tasks nor families; a video reaches it as
frames. An image in memory is encoded once, however many requests contain it, where the model shows
that nothing changes. Decoding is greedy, independent of the checkpoint's generation config.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
)

from unified_reward.backends.attention import Attention, check_attention
from unified_reward.backends.batching import (
    CPU_PADDING,
    CPU_TOKENS,
    MAX_PADDING,
    MAX_TOKENS,
    batches,
    bisect_failures,
)
from unified_reward.backends.chat import Chat
from unified_reward.backends.choices import score_choices, score_first_tokens
from unified_reward.backends.devices import best_device, resolve_device, resolve_dtype
from unified_reward.backends.equivalence import Ways, prove
from unified_reward.backends.image_features import ImageEncoder, to_device
from unified_reward.backends.passes import NOT_NUMBERS, Limits, check_length
from unified_reward.backends.prefixes import Worth
from unified_reward.backends.shared import (
    Answers,
    head_of,
    heads_of_places,
    is_generated,
    to_answer,
)
from unified_reward.checkpoints.adapters import load_merged, processor_source
from unified_reward.checkpoints.kinds import read_config
from unified_reward.checkpoints.tokenizers import load_processor
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


_FALLBACK_CONTEXT = 32_768
WORTH = Worth()
PACKED = 64.0
CPU_PACKED = 16.0
"""Pairs of tokens side by side, which do not see each other and take time all the same, for each
token of a prefix whose cache need not be copied."""
PACKED_LEAST = 64
"""Tokens that may stand side by side in a row whatever stands before them."""

_T = TypeVar("_T")


class VLM:
    """A local checkpoint that answers requests and gives probabilities of their choices."""

    def __init__(self, model: Any, chat: Chat, *, name: str, batch_size: int) -> None:
        self.name = name
        self.model = model.eval()
        self.networks = [self.model]
        self.chat = chat
        self.batch_size = batch_size
        text = model.config.get_text_config()
        self.context: int = getattr(text, "max_position_embeddings", None) or _FALLBACK_CONTEXT
        """Tokens that the model takes."""
        self.n_tokens: int = model.get_input_embeddings().weight.shape[0]
        """Tokens that the model knows."""
        chat.limit_to(self.n_tokens)
        self._arguments = inspect.signature(model.forward).parameters.keys()
        self.encoder: ImageEncoder | None = None
        """Encodes each image once; None if the processor must see each request whole."""
        self.ways = Ways()
        """Ways of asking that are equal to the plain one."""
        prove(self)

    def describe(self) -> dict[str, Any]:
        """Architecture, dtype, device, attention and the ways of asking in use, as JSON."""
        return {
            "architecture": self.model.config.model_type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": self.model.config._attn_implementation,
            "ways": self.ways.describe(),
            "slower": self.ways.slower(),
        }

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone."""
        if self.ways.prefixes == "repeated":
            return self.map_batches(requests, self._answer)
        return self._answer_shared(requests)

    @torch.inference_mode()
    def _answer_shared(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        answers = Answers(self, requests, self.limits())
        return answers.read(answers.grow(self.worth()))

    def worth(self) -> Worth:
        """Prefixes that are shared."""
        return WORTH._replace(behind_images=self.ways.prefixes_end == "behind images")

    def limits(self) -> Limits:
        """Sizes of passes that share prefixes."""
        is_cpu = self.model.device.type == "cpu"
        packed = CPU_PACKED if is_cpu else PACKED
        return Limits(
            tokens=CPU_TOKENS if is_cpu else MAX_TOKENS,
            requests=self.batch_size,
            padding=CPU_PADDING if is_cpu else MAX_PADDING,
            packed=packed if self.ways.prefixes == "packed" else None,
            packed_least=PACKED_LEAST,
            pads_roots=self.ways.padding,
        )

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer: of the chat template, and of the checkpoint's generation."""
        own = self.model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        return sorted({self.chat.eos_id, *(end for end in ends if end is not None)})

    def map_batches(
        self, requests: Sequence[Request], function: Callable[[list[Request]], list[_T]]
    ) -> list[_T | Failed]:
        """Results of a function of batches of similar sizes; one bad request fails alone."""
        results: list[_T | Failed] = [Failed("not computed")] * len(requests)
        for chunk in self._batches(requests):
            batch = [requests[i] for i in chunk]
            for i, result in zip(chunk, bisect_failures(batch, function, self.name), strict=True):
                results[i] = result
        return results

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Indices of requests in batches, of equal length where padding changes an answer."""
        if self.ways.padding:
            sizes = [_size(request) for request in requests]
            yield from batches(sizes, self.batch_size, self.limits().tokens)
            return
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        lengths = bisect_failures([*requests], self._prompt_lengths, self.name)
        for i, (request, length) in enumerate(zip(requests, lengths, strict=True)):
            groups[length, *sorted(image.size for image in request.images)].append(i)
        most = self.batch_size if self.ways.batches == "of equal length" else 1
        for group in groups.values():
            for start in range(0, len(group), most):
                yield group[start : start + most]

    def _prompt_lengths(self, requests: list[Request]) -> list[int]:
        return [len(self.chat.prompt_tokens(request)) for request in requests]

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[Answer]:
        texts = [""] * len(requests)
        generated = [i for i, request in enumerate(requests) if is_generated(request)]
        if generated:
            new = self._generate_text([requests[i] for i in generated])
            for i, text in zip(generated, new, strict=True):
                texts[i] = text
        heads = {
            i: head_of(request, texts[i])
            for i, request in enumerate(requests)
            if not is_generated(request) or head_of(request, texts[i])
        }
        # What is behind the prompts differs in length, even where they do not.
        parts = [[*heads]] if self.ways.padding else [[i] for i in heads]
        logprobs: dict[int, tuple[float, ...]] = {}
        for part in filter(None, parts):
            scored = score_choices(self, [(requests[i], heads[i]) for i in part], self.ways.choices)
            logprobs |= zip(part, scored, strict=True)
        at_places = self._score_places(requests, texts)
        return [
            to_answer(r, texts[i], logprobs.get(i), at_places[i]) for i, r in enumerate(requests)
        ]

    def _score_places(
        self, requests: Sequence[Request], texts: Sequence[str]
    ) -> list[tuple[tuple[float, ...] | None, ...]]:
        """Log-probabilities at the places of each request; None where a text lacks one."""
        scored: list[list[tuple[float, ...] | None]] = [[None] * len(r.places) for r in requests]
        jobs = [
            (i, k, head)
            for i, request in enumerate(requests)
            for k, head, _ in heads_of_places(request, texts[i])
        ]
        most = self.batch_size if self.ways.padding else 1
        for start in range(0, len(jobs), most):
            part = jobs[start : start + most]
            heads = [(requests[i], head) for i, _, head in part]
            choices = [requests[i].places[k].choices for i, k, _ in part]
            for (i, k, _), row in zip(part, score_first_tokens(self, heads, choices), strict=True):
                scored[i][k] = row
        return [tuple(rows) for rows in scored]

    @torch.inference_mode()
    def inputs(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Any]:
        """One left-padded batch on the model's device, its images encoded.

        Args:
            requests: B user turns.
            continuations: Token ids behind each prompt; empty for none.

        Returns:
            Inputs of the model's forward: ``input_ids`` and ``attention_mask`` of shape (B, T), and
            what else the model takes, images as ``mm_encoder_outputs`` if they are encoded once.

        Raises:
            ValueError: It is longer than the model's context.
        """
        if self.encoder is None:
            inputs = to_device(self.chat.batch(requests, continuations), self.model)
        else:
            encoder = self.encoder
            features = encoder.encode([request.images for request in requests])
            texts = [[image.text for image in row] for row in features]
            tokens = self.chat.batch_texts(
                requests, texts, continuations, token=encoder.token, types=encoder.type_ids
            )
            inputs = to_device(tokens, self.model)
            inputs |= encoder.join([image for row in features for image in row])
        n, width = inputs["input_ids"].shape
        check_length(self, width)
        if not self.ways.padding and inputs["attention_mask"].sum() != n * width:
            raise ValueError("requests of different lengths in one batch")
        return inputs

    def logits(self, inputs: Mapping[str, Any], keep: int) -> Tensor:
        """Logits at the last positions, shape (B, keep, vocabulary), of a pass without a cache."""
        options = {"logits_to_keep": keep} if "logits_to_keep" in self._arguments else {}
        return self.model(**inputs, use_cache=False, **options).logits[:, -keep:]

    def _generate_text(self, requests: list[Request]) -> list[str]:
        """Greedy text for each request."""
        limits = [request.max_new_tokens for request in requests]
        tokens = self.generate_tokens(self.inputs(requests), max(limits))
        cut = [row[:limit] for row, limit in zip(tokens, limits, strict=True)]
        return self.chat.decode(row.tolist() for row in cut)

    def generate_tokens(
        self, inputs: Mapping[str, Any], max_new_tokens: int, *processors: LogitsProcessor
    ) -> Tensor:
        """Greedy continuation of prompts, shape (B, at most max_new_tokens), padded.

        It ends at the end token of the chat template and at those of the checkpoint's generation
        config, which is replaced for the call: ``generate`` would fill unset options, such as a
        repetition penalty, from it.

        Args:
            inputs: See `inputs`.
            max_new_tokens: >= 1.
            processors: Change the logits of the next token.

        Raises:
            ValueError: A logit is NaN or infinite, so that the greatest means nothing.
        """
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.chat.pad_id,
        )
        try:
            tokens = self.model.generate(**inputs, logits_processor=[FiniteLogits(), *processors])
        finally:
            self.model.generation_config = own
        return tokens[:, inputs["input_ids"].shape[1] :]

    def position_ids(self, inputs: Mapping[str, Any]) -> Tensor:
        """Position ids: (axes, B, T) for M-RoPE, (B, T) for others."""
        rope = getattr(self.model.base_model, "get_rope_index", None)
        if rope is None:
            return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        names = inspect.signature(rope).parameters.keys() & inputs.keys()
        return rope(**{name: inputs[name] for name in names})[0]


class FiniteLogits(LogitsProcessor):
    """Refuses NaN and infinity, among which greedy decoding would pick some token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits of the next token as they are, shape (B, vocabulary); the ids are not used.

        Raises:
            ValueError: A logit is NaN or infinite.
        """
        if not (scores < torch.inf).all():
            raise ValueError(NOT_NUMBERS)
        return scores


def _size(request: Request) -> int:
    """Approximate number of tokens: one for 4 characters or for 32 x 32 pixels."""
    return sum(
        len(p) // 4 if isinstance(p, str) else p.width * p.height // 1024 for p in request.parts
    )


def load_vlm(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    batch_size: int | None = None,
    quantize: Literal["8bit", "4bit"] | None = None,
    attention: Attention | None = None,
) -> VLM:
    """Load any transformers checkpoint of image and text to text.

    The folder of a peft adapter is loaded as its base with the adapter merged in; the processor is
    its own if it has one, else that of the base.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, ``mps``, …; default the fastest there is. ``auto`` spreads the
            weights over all devices.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        max_pixels: Largest image that the model gets, in pixels; default the checkpoint's own.
        batch_size: Requests in one pass; default 16.
        quantize: Bits of a weight, by bitsandbytes; default none are quantised.
        attention: Implementation of attention; default torch's own, where the architecture has it.

    Raises:
        ConfigError: There is no such dtype, what ``quantize`` or ``attention`` needs is not
            installed, or the attention does not run on this device in this dtype.
        ModelError: The folder lacks a model or a processor, its weights do not fit, its chat
            template cannot take images, it names Python code of its own, or it holds an adapter
            whose base is not there or whose weights are pickled.
    """
    options = _placement(device, dtype, quantize, attention)
    config = read_config(source)
    processor_folder = processor_source(source)
    processor = load_processor(processor_folder)
    try:
        chat = Chat(processor, max_pixels=max_pixels)
    except ModelError as error:
        raise ModelError(f"{source} ({config.model_type}) cannot be asked: {error}") from error
    model = load_merged(AutoModelForImageTextToText, source, options)
    if "device_map" not in options:
        model = model.to(resolve_device(device))
    return VLM(model, chat, name=str(source), batch_size=batch_size or 16)


def _placement(
    device: str | None, dtype: str | None, quantize: str | None, attention: Attention | None
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for dtype, quantisation, attention and placement."""
    device = resolve_device(device)
    is_spread = device == "auto"
    fastest = best_device() if is_spread else device
    torch_dtype = resolve_dtype(dtype, fastest)
    options: dict[str, Any] = {"dtype": torch_dtype}
    if attention:
        check_attention(attention, fastest, torch_dtype)
        options["attn_implementation"] = attention
    if is_spread or quantize:
        options["device_map"] = "auto" if is_spread else {"": device}
    if quantize:
        if find_spec("bitsandbytes") is None:
            raise ConfigError(
                f"quantize={quantize!r} needs bitsandbytes, which is not installed: "
                "pip install bitsandbytes"
            )
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantize == "8bit",
            load_in_4bit=quantize == "4bit",
            bnb_4bit_compute_dtype=torch_dtype,
        )
    return options
