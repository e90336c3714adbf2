"""A local vision-language checkpoint as a model: Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision.

It takes images and text in order and knows neither tasks nor families; a video reaches it as
frames. An image in memory is encoded once, however many requests contain it. Decoding is greedy,
independent of the checkpoint's generation config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
)

from unified_reward.backends.batching import batches, bisect_failures
from unified_reward.backends.chat import Chat
from unified_reward.backends.devices import best_device, resolve_device, resolve_dtype
from unified_reward.backends.image_features import ImageEncoder, ImageFeatures, join_features
from unified_reward.checkpoints.adapters import load_merged, processor_source
from unified_reward.checkpoints.pretrained import load_pretrained
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.paths import is_folder
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


PUBLISHED_MAX_PIXELS = 262_144
"""512 x 512: the pixel cap the published Qwen judges were trained with."""
_FALLBACK_CONTEXT = 32_768

_T = TypeVar("_T")


class VLM:
    """A local checkpoint that answers requests and gives probabilities of their choices."""

    def __init__(self, model: Any, chat: Chat, *, name: str, batch_size: int) -> None:
        self.name = name
        self.model = model.eval()
        self.chat = chat
        self.batch_size = batch_size
        text = model.config.get_text_config()
        self.context: int = getattr(text, "max_position_embeddings", None) or _FALLBACK_CONTEXT
        """Tokens that the model takes."""
        self._image_token: int | None = getattr(model.config, "image_token_id", None)
        token = getattr(chat.processor, "image_token_id", None)
        if self._image_token is None or self._image_token != token:
            raise ModelError(
                f"the processor of {name} marks an image by token {token}, the model by "
                f"{self._image_token}"
            )
        self.n_tokens: int = model.get_input_embeddings().weight.shape[0]
        """Tokens that the model knows."""
        chat.limit_to(self.n_tokens)
        self._encoder = ImageEncoder(model, self.chat.processor.image_processor)

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone."""
        return self.map_batches(requests, self._answer)

    def map_batches(
        self, requests: Sequence[Request], function: Callable[[list[Request]], list[_T]]
    ) -> list[_T | Failed]:
        """Results of a function of batches of similar sizes; one bad request fails alone."""
        results: list[_T | Failed] = [Failed("not computed")] * len(requests)
        for chunk in batches([_size(request) for request in requests], self.batch_size):
            batch = [requests[i] for i in chunk]
            for i, result in zip(chunk, bisect_failures(batch, function, self.name), strict=True):
                results[i] = result
        return results

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[Answer]:
        texts = [""] * len(requests)
        generated = [i for i, r in enumerate(requests) if r.verdict_prefix or not r.choices]
        if generated:
            new = self._generate_text([requests[i] for i in generated])
            for i, text in zip(generated, new, strict=True):
                texts[i] = text
        heads: dict[int, str] = {}
        for i, request in enumerate(requests):
            prefix = request.verdict_prefix
            before, found, _ = texts[i].rpartition(prefix) if prefix else ("", "", "")
            if request.choices and (found or not prefix):
                heads[i] = before + found
        scored = self._score_choices([(requests[i], heads[i]) for i in heads]) if heads else []
        logprobs = dict(zip(heads, scored, strict=True))
        return [_to_answer(r, texts[i], logprobs.get(i)) for i, r in enumerate(requests)]

    @torch.inference_mode()
    def inputs(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Any]:
        """One left-padded batch on the model's device, its images encoded.

        Args:
            requests: B user turns.
            continuations: Token ids behind each prompt; empty for none.

        Returns:
            Inputs of the model's forward: ``input_ids`` and ``attention_mask`` of shape (B, T),
            ``mm_encoder_outputs`` and, for Qwen, ``mm_token_type_ids`` and ``image_grid_thw``.

        Raises:
            ValueError: It is longer than the model's context.
        """
        features = self._encoder.encode(
            [[part for part in r.parts if not isinstance(part, str)] for r in requests]
        )
        added_ids = continuations or [()] * len(requests)
        rows = [
            [*self._expand_image_tokens(self.chat.prompt_tokens(request), images), *added]
            for request, images, added in zip(requests, features, added_ids, strict=True)
        ]
        width = max(map(len, rows))
        if width > self.context:
            raise ValueError(
                f"{width} tokens, but the model takes {self.context}; shorten the text or "
                "lower max_pixels"
            )
        ids = torch.tensor([[self.chat.pad_id] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        flat = [image for row in features for image in row]
        if hasattr(self.model.model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (ids == self._image_token).long()
        grids = [image.grid for image in flat if image.grid is not None]
        if grids:
            inputs["image_grid_thw"] = torch.stack(grids)
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        return inputs | ({"mm_encoder_outputs": {"image": join_features(flat)}} if flat else {})

    def _expand_image_tokens(
        self, ids: Sequence[int], images: Sequence[ImageFeatures]
    ) -> Iterator[int]:
        """Token ids with the image token repeated once per feature of its image."""
        left = iter(images)
        for token in ids:
            yield from [token] * (len(next(left).tokens) if token == self._image_token else 1)

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
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted({self.chat.eos_id, *(end for end in ends if end is not None)}),
            pad_token_id=self.chat.pad_id,
        )
        try:
            tokens = self.model.generate(**inputs, logits_processor=[FiniteLogits(), *processors])
        finally:
            self.model.generation_config = own
        return tokens[:, inputs["input_ids"].shape[1] :]

    def _score_choices(self, pairs: Sequence[tuple[Request, str]]) -> list[tuple[float, ...]]:
        """Log-probability of each choice of each request, given the text generated before it.

        One prefill over prompt and the tokens that all choices share, then one short batched pass
        over the rest of every choice. Each choice is tokenised whole and closed with the end token,
        so "10" and "100" differ however the tokenizer splits them.
        """
        split = [self.chat.split_choices(head, request.choices) for request, head in pairs]
        tails = [rows for _, rows in split]
        inputs = self.inputs([request for request, _ in pairs], [shared for shared, _ in split])
        positions = self._position_ids(inputs)
        out = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        first = out.logits[:, -1].float().log_softmax(-1)
        rest_logprobs = [[0.0] * len(rows) for rows in tails]
        if any(len(row) > 1 for rows in tails for row in rows):
            rest_logprobs = self._score_tails(out.cache, inputs["attention_mask"], positions, tails)
        return [
            tuple(float(start[row[0]]) + rest for row, rest in zip(rows, rests, strict=True))
            for start, rows, rests in zip(first, tails, rest_logprobs, strict=True)
        ]

    def _score_tails(
        self, cache: Any, mask: Tensor, positions: Tensor, tails: list[list[list[int]]]
    ) -> list[list[float]]:
        """Log-probability of all but the first token of each tail, after its prefill.

        The tails of a request are side by side in one row, and do not attend to one another.
        """
        tail_ids = [[token for row in rows for token in row[:-1]] for rows in tails]
        tail = [[k for k, row in enumerate(rows) for _ in row[:-1]] for rows in tails]
        step = [[j for row in rows for j in range(len(row) - 1)] for rows in tails]
        ids, owner, steps = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in rows], batch_first=True, padding_value=fill
            ).to(mask.device)
            for rows, fill in ((tail_ids, self.chat.pad_id), (tail, -1), (step, 0))
        )
        is_own = owner[:, :, None] == owner[:, None, :]
        attends = is_own & (steps[:, :, None] >= steps[:, None, :])
        before = mask.bool()[:, None, :].expand(-1, ids.shape[1], -1)
        # The last position per row over all axes; text advances all axes alike.
        last = positions.amax(-1, keepdim=True) + 1
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.cat([before, attends], -1)[:, None],
            position_ids=last + steps,
            cache=cache,
            use_cache=True,
        ).logits
        logprobs = logits.float().log_softmax(-1)
        sums: list[list[float]] = []
        for i, rows in enumerate(tails):
            targets = torch.tensor([token for row in rows for token in row[1:]], device=mask.device)
            values = iter(logprobs[i, range(len(targets)), targets].tolist())
            sums.append([sum(next(values) for _ in row[1:]) for row in rows])
        return sums

    def _position_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Position ids: (3, B, T) for Qwen's M-RoPE, (B, T) for others."""
        rope = getattr(self.model.model, "get_rope_index", None)
        mask = inputs["attention_mask"]
        if rope is None:
            return (mask.cumsum(-1) - 1).clamp(min=0)
        kinds = inputs.get("mm_token_type_ids")
        if kinds is None:
            raise ModelError(
                "the processor gave no mm_token_type_ids, without which M-RoPE is wrong"
            )
        grid = inputs.get("image_grid_thw")
        return rope(inputs["input_ids"], kinds, image_grid_thw=grid, attention_mask=mask)[0]


class FiniteLogits(LogitsProcessor):
    """Refuses NaN and infinity, among which greedy decoding would pick some token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits of the next token as they are, shape (B, vocabulary); the ids are not used.

        Raises:
            ValueError: A logit is NaN or infinite.
        """
        if not (scores < torch.inf).all():
            raise ValueError("logits of the next token are not numbers; try another dtype")
        return scores


def _to_answer(request: Request, text: str, logprobs: tuple[float, ...] | None) -> Answer:
    """The answer; without generated text it is the most probable choice."""
    if logprobs is not None and not request.verdict_prefix:
        text = request.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
    return Answer(text, logprobs)


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
) -> VLM:
    """Load any transformers checkpoint of image and text to text.

    The folder of a peft adapter is loaded as its base with the adapter merged in; the processor is
    its own if it has one, else that of the base.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, ``mps``, …; default the fastest there is. ``auto`` spreads the
            weights over all devices.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        max_pixels: Largest image that the model gets, in pixels; default the checkpoint's own,
            at most 262144 for a Qwen checkpoint from the hub.
        batch_size: Requests in one pass; default 16.
        quantize: Bits of a weight, by bitsandbytes; default none are quantised.

    Raises:
        ConfigError: There is no such dtype, or what ``quantize`` needs is not installed.
        ModelError: The folder lacks a model or a processor, its weights do not fit, its chat
            template cannot take images, it names Python code of its own, or it holds an adapter
            whose base is not there or whose weights are pickled.
    """
    options = _placement(device, dtype, quantize)
    processor_folder = processor_source(source)
    processor = load_pretrained(AutoProcessor, processor_folder)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "apply_chat_template"):
        raise ModelError(f"{processor_folder} has no image processor beside its weights")
    if max_pixels is None and not is_folder(processor_folder):
        max_pixels = PUBLISHED_MAX_PIXELS
    chat = Chat(processor, max_pixels=max_pixels)
    model = load_merged(AutoModelForImageTextToText, source, options)
    if "device_map" not in options:
        model = model.to(resolve_device(device))
    return VLM(model, chat, name=str(source), batch_size=batch_size or 16)


def _placement(device: str | None, dtype: str | None, quantize: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for dtype, quantisation and spreading over devices."""
    device = resolve_device(device)
    is_spread = device == "auto"
    torch_dtype = resolve_dtype(dtype, best_device() if is_spread else device)
    options: dict[str, Any] = {"dtype": torch_dtype}
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
