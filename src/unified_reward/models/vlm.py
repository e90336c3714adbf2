"""A local vision-language checkpoint as a model: Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision.

It sees pictures and text in order and knows neither tasks nor families; a video reaches it as
frames. Decoding is greedy whatever the checkpoint's generation config says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from unified_reward.types import Answer, Failed, ModelError, Request


PUBLISHED_MAX_PIXELS = 262_144
"""512 x 512: the pixel cap the published Qwen judges were trained with."""
_FALLBACK_CONTEXT = 32_768

_T = TypeVar("_T")


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
        self._special = [t for t in self.tokenizer.all_special_tokens if len(t) > 1]

    def prompt(self, request: Request) -> str:
        """The request in the checkpoint's chat format, up to where the assistant speaks."""
        content = [
            {"type": "text", "text": self._harmless(part)}
            if isinstance(part, str)
            else {"type": "image"}
            for part in request.parts
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _harmless(self, text: str) -> str:
        """Break up control tokens spelled out in a caption, which would act as control tokens."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def tokens(self, text: str) -> list[int]:
        """Token ids of a part of an answer, without added specials."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

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

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone."""
        return self.each(requests, self._answer)

    def each(
        self, requests: Sequence[Request], ask: Callable[[list[Request]], list[_T]]
    ) -> list[_T | Failed]:
        """Ask something of every request, in batches of like sizes; one bad item fails alone."""
        answers: list[_T | Failed] = [Failed("not asked")] * len(requests)
        for chunk in _batches([_size(one) for one in requests], self.batch_size):
            batch = [requests[i] for i in chunk]
            for i, answer in zip(chunk, self._isolated(batch, ask), strict=True):
                answers[i] = answer
        return answers

    def _isolated(
        self, requests: list[Request], ask: Callable[[list[Request]], list[_T]]
    ) -> list[_T | Failed]:
        """Ask a batch; where it breaks, halve it until the item that breaks it stands alone."""
        try:
            return [*ask(requests)]
        except (ValueError, RuntimeError) as error:  # a bad picture, too many tokens, no memory
            if len(requests) == 1:
                return [Failed(f"{self.name} could not answer: {error}")]
        half = len(requests) // 2
        return self._isolated(requests[:half], ask) + self._isolated(requests[half:], ask)

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[Answer]:
        texts = [""] * len(requests)
        spoken = [i for i, one in enumerate(requests) if one.lead or not one.choices]
        if spoken:
            for i, text in zip(spoken, self._speak([requests[i] for i in spoken]), strict=True):
                texts[i] = text
        heads: dict[int, str] = {}
        for i, one in enumerate(requests):
            before, found, _ = texts[i].rpartition(one.lead) if one.lead else ("", "", "")
            if one.choices and (found or not one.lead):
                heads[i] = before + found
        weighed = self._weigh([(requests[i], head) for i, head in heads.items()]) if heads else []
        logprobs = dict(zip(heads, weighed, strict=True))
        return [self._said(one, texts[i], logprobs.get(i)) for i, one in enumerate(requests)]

    def _said(self, request: Request, text: str, logprobs: tuple[float, ...] | None) -> Answer:
        if logprobs is not None and not request.lead:
            text = request.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
        return Answer(text, logprobs)

    def inputs(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Tensor]:
        """One batch on the model's device, see `Chat.batch`.

        Raises:
            ValueError: It is longer than the model's context.
        """
        inputs = self.chat.batch(requests, continuations)
        longest = int(inputs["attention_mask"].sum(-1).max())
        if longest > self._context:
            raise ValueError(
                f"{longest} tokens, but the model takes {self._context}; shorten the text or "
                "lower max_pixels"
            )
        return {name: _to(value, self.model) for name, value in inputs.items()}

    def _speak(self, requests: list[Request]) -> list[str]:
        """Greedy text for each request."""
        inputs = self.inputs(requests)
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(one.max_new_tokens for one in requests),
            eos_token_id=self._ends(),
            pad_token_id=self.chat.pad,
        )
        tokens = self.model.generate(**inputs, generation_config=greedy)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        kept = [row[: one.max_new_tokens] for row, one in zip(new, requests, strict=True)]
        return self.chat.tokenizer.batch_decode(kept, skip_special_tokens=True)

    def _ends(self) -> list[int]:
        known = self.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known] if known is not None else []
        return sorted({self.chat.end, *known})

    def _weigh(self, asked: Sequence[tuple[Request, str]]) -> list[tuple[float, ...]]:
        """Log-probability of each choice behind each request and the text said so far.

        One prefill over prompt and the tokens all choices share, then one short batched pass over
        the rest of every choice. Each choice is tokenised whole and closed with the end token, so
        "10" and "100" are told apart however the tokenizer splits them.
        """
        shared: list[list[int]] = []
        tails: list[list[list[int]]] = []
        for request, head in asked:
            rows = [[*self.chat.tokens(head + one), self.chat.end] for one in request.choices]
            common = common_prefix(rows)
            shared.append(rows[0][:common])
            tails.append([row[common:] for row in rows])
        inputs = self.inputs([request for request, _ in asked], shared)
        positions = self._positions(inputs)
        out = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        first = out.logits[:, -1].float().log_softmax(-1)
        owner = [i for i, rows in enumerate(tails) for _ in rows]
        flat = [row for rows in tails for row in rows]
        total = [float(first[i, row[0]]) for i, row in zip(owner, flat, strict=True)]
        if any(len(row) > 1 for row in flat):
            for k, extra in enumerate(self._continue(out, inputs, positions, owner, flat)):
                total[k] += extra
        each = iter(total)
        return [tuple(next(each) for _ in rows) for rows in tails]

    def _continue(
        self,
        prefill: Any,
        inputs: Mapping[str, Tensor],
        positions: Tensor,
        owner: list[int],
        rows: list[list[int]],
    ) -> Iterator[float]:
        """Log-probability of all but the first token of each row, behind its owner's prefill."""
        device = inputs["input_ids"].device
        width = max(map(len, rows)) - 1
        fed = torch.full((len(rows), width), self.chat.pad, device=device)
        real = torch.zeros((len(rows), width), dtype=torch.long, device=device)
        for k, row in enumerate(rows):
            fed[k, : len(row) - 1] = torch.tensor(row[:-1], device=device)
            real[k, : len(row) - 1] = 1
        index = torch.tensor(owner, device=device)
        cache = prefill.past_key_values
        cache.batch_select_indices(index)
        last = (
            positions.amax(-1, keepdim=True) + 1
        )  # per axis and row; text advances all axes alike
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        steps = torch.arange(width, device=device)
        logits = self.model(
            input_ids=fed,
            attention_mask=torch.cat([inputs["attention_mask"][index], real], 1),
            position_ids=last.index_select(-2, index) + steps,
            past_key_values=cache,
            use_cache=True,
        ).logits
        for k, row in enumerate(rows):
            steps_k = logits[k, : len(row) - 1].float().log_softmax(-1)
            yield float(sum(steps_k[j, token] for j, token in enumerate(row[1:])))

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


def _to(value: Tensor, model: Any) -> Tensor:
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def _size(request: Request) -> int:
    """Tokens of a request, roughly: a token for 4 characters or for 32 x 32 pixels."""
    return sum(
        len(p) // 4 if isinstance(p, str) else p.width * p.height // 1024 for p in request.parts
    )


def _batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in batches of like sizes: each row is padded to the longest of its batch."""
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) == most or sizes[i] > 2 * sizes[batch[0]] + 256):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


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


def load_vlm(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    batch_size: int | None = None,
) -> VLM:
    """Load any transformers checkpoint of image and text to text.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, ``mps``, …; default the best there is.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        max_pixels: Largest picture shown to the model, in pixels; default the checkpoint's own,
            at most 262144 for a Qwen checkpoint from the hub.
        batch_size: Requests in one pass; default 16.

    Raises:
        ModelError: The folder lacks a model or a processor, or its weights do not fit.
    """
    device = device or _best_device()
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    local = Path(source).is_dir()
    try:
        processor = AutoProcessor.from_pretrained(source, local_files_only=local)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, dtype), local_files_only=local, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"{source} cannot be loaded as a vision-language model: {error}"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "apply_chat_template"):
        raise ModelError(f"{source} has no processor for pictures beside its weights")
    model, info = loaded
    wrong = {
        kind: sorted(map(str, info[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[kind]
    }
    if wrong:
        told = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in wrong.items())
        raise ModelError(f"the weights in {source} do not fit its config: {told}")
    if max_pixels is None and not local:
        max_pixels = PUBLISHED_MAX_PIXELS
    return VLM(
        model.to(device),
        processor,
        name=str(source),
        batch_size=batch_size or 16,
        max_pixels=max_pixels,
    )


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
