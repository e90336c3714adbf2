"""A local vision-language checkpoint as a model: Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision.

It sees pictures and text in order and knows neither tasks nor families; a video reaches it as
frames. A picture is encoded once for as long as it lives, however often it is asked about. Decoding
is greedy whatever the checkpoint's generation config says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
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
from unified_reward.backends.image_features import ImageEncoder, ImageFeatures, joined
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


PUBLISHED_MAX_PIXELS = 262_144
"""512 x 512: the pixel cap the published Qwen judges were trained with."""
_FALLBACK_CONTEXT = 32_768
_UNLOADABLE = (OSError, ValueError, ImportError, KeyError, SafetensorError)
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")

_T = TypeVar("_T")


class VLM:
    """A local checkpoint that answers requests, and tells how probable given answers are."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        batch_size: int,
        max_pixels: int | None = None,
    ) -> None:
        self.name = name
        self.model = model.eval()
        self.chat = Chat(processor, max_pixels=max_pixels)
        self.batch_size = batch_size
        text = model.config.get_text_config()
        self._context = getattr(text, "max_position_embeddings", None) or _FALLBACK_CONTEXT
        self._image_token: int = model.config.image_token_id
        self._encoder = ImageEncoder(model, self.chat.processor.image_processor)

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone."""
        return self.each(requests, self._answer)

    def each(
        self, requests: Sequence[Request], ask: Callable[[list[Request]], list[_T]]
    ) -> list[_T | Failed]:
        """Ask something of every request, in batches of like sizes; one bad item fails alone."""
        answers: list[_T | Failed] = [Failed("not asked")] * len(requests)
        for chunk in batches([_size(one) for one in requests], self.batch_size):
            batch = [requests[i] for i in chunk]
            for i, answer in zip(chunk, bisect_failures(batch, ask, self.name), strict=True):
                answers[i] = answer
        return answers

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[Answer]:
        texts = [""] * len(requests)
        spoken = [i for i, one in enumerate(requests) if one.verdict_prefix or not one.choices]
        if spoken:
            for i, text in zip(spoken, self._speak([requests[i] for i in spoken]), strict=True):
                texts[i] = text
        heads: dict[int, str] = {}
        for i, one in enumerate(requests):
            before, found, _ = (
                texts[i].rpartition(one.verdict_prefix) if one.verdict_prefix else ("", "", "")
            )
            if one.choices and (found or not one.verdict_prefix):
                heads[i] = before + found
        weighed = self._weigh([(requests[i], head) for i, head in heads.items()]) if heads else []
        logprobs = dict(zip(heads, weighed, strict=True))
        return [self._said(one, texts[i], logprobs.get(i)) for i, one in enumerate(requests)]

    def _said(self, request: Request, text: str, logprobs: tuple[float, ...] | None) -> Answer:
        if logprobs is not None and not request.verdict_prefix:
            text = request.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
        return Answer(text, logprobs)

    @torch.inference_mode()
    def inputs(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Any]:
        """One left-padded batch on the model's device, its pictures encoded.

        Args:
            requests: B user turns.
            continuations: Token ids behind each prompt; empty for none.

        Returns:
            What the model's forward takes: ``input_ids`` and ``attention_mask`` of shape (B, T),
            ``mm_encoder_outputs`` and, for Qwen, ``mm_token_type_ids`` and ``image_grid_thw``.

        Raises:
            ValueError: It is longer than the model's context.
        """
        seen = self._encoder.see(
            [[part for part in one.parts if not isinstance(part, str)] for one in requests]
        )
        behind = continuations or [()] * len(requests)
        rows = [
            [*self._spread(self.chat.prompt_tokens(one), shown), *added]
            for one, shown, added in zip(requests, seen, behind, strict=True)
        ]
        width = max(map(len, rows))
        if width > self._context:
            raise ValueError(
                f"{width} tokens, but the model takes {self._context}; shorten the text or "
                "lower max_pixels"
            )
        ids = torch.tensor([[self.chat.pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        flat = [one for row in seen for one in row]
        if hasattr(self.model.model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (ids == self._image_token).long()
        grids = [one.grid for one in flat if one.grid is not None]
        if grids:
            inputs["image_grid_thw"] = torch.stack(grids)
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        return inputs | ({"mm_encoder_outputs": {"image": joined(flat)}} if flat else {})

    def _spread(self, ids: Sequence[int], shown: Sequence[ImageFeatures]) -> Iterator[int]:
        """Token ids with the mark of each picture repeated as often as it has tokens."""
        left = iter(shown)
        for token in ids:
            yield from [token] * (len(next(left).tokens) if token == self._image_token else 1)

    def _speak(self, requests: list[Request]) -> list[str]:
        """Greedy text for each request."""
        new = self.continued(self.inputs(requests), max(one.max_new_tokens for one in requests))
        kept = [row[: one.max_new_tokens] for row, one in zip(new, requests, strict=True)]
        return self.chat.tokenizer.batch_decode(kept, skip_special_tokens=True)

    def continued(
        self, inputs: Mapping[str, Any], max_new_tokens: int, *processors: LogitsProcessor
    ) -> Tensor:
        """Greedy continuation of prompts, shape (B, at most max_new_tokens), padded.

        Of the checkpoint's generation config only the end tokens count: whatever is unset in one
        that is passed along, such as a penalty on repetition, ``generate`` would take from there.

        Args:
            inputs: As `inputs` gives them.
            max_new_tokens: >= 1.
            processors: What changes the scores of the next token.
        """
        own = self.model.generation_config
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted({self.chat.end, *(one for one in ends if one is not None)}),
            pad_token_id=self.chat.pad,
        )
        try:
            tokens = self.model.generate(**inputs, logits_processor=[*processors])
        finally:
            self.model.generation_config = own
        return tokens[:, inputs["input_ids"].shape[1] :]

    def _weigh(self, asked: Sequence[tuple[Request, str]]) -> list[tuple[float, ...]]:
        """Log-probability of each choice behind each request and the text said so far.

        One prefill over prompt and the tokens all choices share, then one short batched pass over
        the rest of every choice. Each choice is tokenised whole and closed with the end token, so
        "10" and "100" are told apart however the tokenizer splits them.
        """
        split = [self.chat.branches(head, request.choices) for request, head in asked]
        tails = [rows for _, rows in split]
        inputs = self.inputs([request for request, _ in asked], [shared for shared, _ in split])
        positions = self._positions(inputs)
        out = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        first = out.logits[:, -1].float().log_softmax(-1)
        behind = [[0.0] * len(rows) for rows in tails]
        if any(len(row) > 1 for rows in tails for row in rows):
            behind = self._continue(out.cache, inputs["attention_mask"], positions, tails)
        return [
            tuple(float(start[row[0]]) + rest for row, rest in zip(rows, rests, strict=True))
            for start, rows, rests in zip(first, tails, behind, strict=True)
        ]

    def _continue(
        self, cache: Any, mask: Tensor, positions: Tensor, tails: list[list[list[int]]]
    ) -> list[list[float]]:
        """Log-probability of all but the first token of each tail, behind its prefill.

        The tails of a request stand side by side in one row, and none sees another.
        """
        fed = [[token for row in rows for token in row[:-1]] for rows in tails]
        tail = [[k for k, row in enumerate(rows) for _ in row[:-1]] for rows in tails]
        step = [[j for row in rows for j in range(len(row) - 1)] for rows in tails]
        ids, owner, steps = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in each], batch_first=True, padding_value=fill
            ).to(mask.device)
            for each, fill in ((fed, self.chat.pad), (tail, -1), (step, 0))
        )
        sees = (owner[:, :, None] == owner[:, None, :]) & (steps[:, :, None] >= steps[:, None, :])
        before = mask.bool()[:, None, :].expand(-1, ids.shape[1], -1)
        # The last position per row over all axes; text advances all axes alike.
        last = positions.amax(-1, keepdim=True) + 1
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.cat([before, sees], -1)[:, None],
            position_ids=last + steps,
            cache=cache,
            use_cache=True,
        ).logits
        told = logits.float().log_softmax(-1)
        sums: list[list[float]] = []
        for i, rows in enumerate(tails):
            spoken = torch.tensor([token for row in rows for token in row[1:]], device=mask.device)
            each = iter(told[i, range(len(spoken)), spoken].tolist())
            sums.append([sum(next(each) for _ in row[1:]) for row in rows])
        return sums

    def _positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Position of every token: (3, B, T) for Qwen's M-RoPE, (B, T) elsewhere."""
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


def _size(request: Request) -> int:
    """Tokens of a request, roughly: a token for 4 characters or for 32 x 32 pixels."""
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

    The folder of a peft adapter is loaded as its base with the adapter merged in. The base that it
    names is a folder relative to its own, else a folder or a hub id as it stands; the processor is
    its own if it has one, else that of the base.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, ``mps``, …; default the fastest there is. ``auto`` spreads the
            weights over all devices.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        max_pixels: Largest picture shown to the model, in pixels; default the checkpoint's own,
            at most 262144 for a Qwen checkpoint from the hub.
        batch_size: Requests in one pass; default 16.
        quantize: Bits of a weight, by bitsandbytes; default none are quantised.

    Raises:
        ConfigError: There is no such dtype, or what ``quantize`` needs is not installed.
        ModelError: The folder lacks a model or a processor, its weights do not fit, or it holds an
            adapter whose base is not there or whose weights are pickled.
    """
    options = _placement(device, dtype, quantize)
    speaker = _speaker(source)
    processor = _loaded(AutoProcessor, speaker)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "apply_chat_template"):
        raise ModelError(f"{speaker} has no processor for pictures beside its weights")
    if max_pixels is None and not Path(speaker).is_dir():
        max_pixels = PUBLISHED_MAX_PIXELS
    model = _model(source, options)
    if "device_map" not in options:
        model = model.to(resolve_device(device))
    return VLM(
        model, processor, name=str(source), batch_size=batch_size or 16, max_pixels=max_pixels
    )


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


def _loaded(kind: Any, source: str | Path, **how: Any) -> Any:
    try:
        return kind.from_pretrained(
            source, local_files_only=Path(source).is_dir(), trust_remote_code=False, **how
        )
    except _UNLOADABLE as error:
        raise ModelError(
            f"{source} cannot be loaded as a vision-language model: {error}"
        ) from error


def _model(source: str | Path, options: Mapping[str, Any]) -> Any:
    if (base := base_of(source)) is not None:
        if "quantization_config" in options:
            raise ConfigError(
                f"{source} is an adapter, which cannot be merged into quantised weights; "
                "save it merged into its base, or leave out quantize"
            )
        return _merged(_model(base, options), Path(source), base)
    model, info = _loaded(AutoModelForImageTextToText, source, output_loading_info=True, **options)
    _check_fit(info, f"the weights in {source} do not fit its config")
    return model


def _merged(model: Any, folder: Path, base: str | Path) -> Any:
    """A base with the adapter in a folder made part of its weights."""
    from peft import PeftConfig, PeftModel

    told = f"the adapter in {folder} does not fit its base {base}"
    try:
        adapted: Any = PeftModel(model, PeftConfig.from_pretrained(str(folder)))
        found = adapted.load_adapter(str(folder), "default")
        _check_fit(found._asdict(), told)
        merged = adapted.merge_and_unload()
    except (*_UNLOADABLE, AttributeError, RuntimeError, TypeError) as error:
        raise ModelError(f"{told}: {error}") from error
    merged.name_or_path = str(folder)  # what an adapter trained on top names as its base
    return merged


def _check_fit(info: Mapping[str, Any], told: str) -> None:
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {kind: sorted(map(str, info[kind])) for kind in kinds if info.get(kind)}
    if wrong:
        named = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in wrong.items())
        raise ModelError(f"{told}: {named}")


def _speaker(source: str | Path) -> str | Path:
    """Where the processor of a checkpoint is."""
    base = base_of(source)
    has_own = any((Path(source) / name).is_file() for name in _PROCESSORS)
    return source if base is None or has_own else _speaker(base)


def base_of(source: str | Path) -> str | Path | None:
    """What the adapter in a folder is merged into; None where there is no adapter."""
    folder = Path(source)
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    if not (folder / "adapter_model.safetensors").is_file():
        told = "has no adapter_model.safetensors, and pickled weights are not read; save it again"
        raise ModelError(f"{folder} {told}")
    try:
        named: str = json.loads(file.read_bytes())["base_model_name_or_path"]
        beside = folder / named
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} names no base_model_name_or_path: {error!r}") from error
    for path in (beside, Path(named or folder)):
        if path.is_dir() and not path.samefile(folder):
            return path
    if not named or Path(named).is_absolute() or named.startswith("."):
        told = "where no other folder is; name one, relative to the adapter's or absolute"
        raise ModelError(f"{file} has the base {named!r}, {told}, or a hub id")
    return named
