"""Requests as tokens and tensors of a checkpoint, by its processor and chat template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unified_reward.backends.chat_template import ControlTokens, read_format, render
from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.requests import Request


_PARTS = {
    "image_processor": "image processor",
    "tokenizer": "tokenizer",
    "apply_chat_template": "chat template",
}


class ImageText(NamedTuple):
    """Text that a processor writes in place of an image."""

    text: str
    """Each run of the token that stands for a feature is written as a single one."""
    runs: tuple[int, ...]
    """Their lengths."""


class Chat:
    """A processor and its chat template; the same for training and judging."""

    def __init__(self, processor: Any, *, max_pixels: int | None = None) -> None:
        for name, what in _PARTS.items():
            if getattr(processor, name, None) is None:
                raise ModelError(f"{_name_of(processor)} has no {what} beside its weights")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if max_pixels is not None:
            _cap_pixels(processor.image_processor, max_pixels)
        self._format = read_format(processor)
        self._control = ControlTokens(self._format.control)
        self.eos_id = self._format.end_id
        """Token that ends an answer, by the chat template."""
        self.padding_side: Literal["left", "right"] = "left"
        """Side on which the rows of a batch are padded."""
        self._n_tokens: int | None = None
        self._choose_pad()
        self.split_choices = lru_cache(maxsize=1024)(self._split_choices)
        """Common token prefix of the choices after ``head``, and each choice's remaining tokens."""
        self._control_ids = {*self.tokenizer.convert_tokens_to_ids([*self._format.control])}
        self._cached_tokens = lru_cache(maxsize=1024)(self._tokens_of)
        self._cached_row = lru_cache(maxsize=256)(self._row)
        self._header_ids = self._ids(self._format.header)
        # Where the template does not write the token that begins a text, the tokenizer does.
        bos, probe = self.tokenizer.bos_token, self._prompt(("probe",))
        self._text_options = {"add_special_tokens": False} if bos and probe.startswith(bos) else {}
        self._leading = self._leading_ids(probe)

    def limit_to(self, n_tokens: int) -> None:
        """Refuse text with tokens that a model of so many lacks: a tokenizer may have more.

        Raises:
            ModelError: The token that ends an answer is one of them.
        """
        if self.eos_id >= n_tokens:
            raise ModelError(
                f"token {self.eos_id} ends an answer by the chat template of "
                f"{_name_of(self.processor)}, but the model has {n_tokens} tokens"
            )
        self._n_tokens = n_tokens
        self._choose_pad()

    def _choose_pad(self) -> None:
        """Pad with the end token where there is no pad token, or none that the model has."""
        pad = self.tokenizer.pad_token_id
        if pad is None or (self._n_tokens and pad >= self._n_tokens):
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.eos_id)
        self.pad_id: int = self.tokenizer.pad_token_id

    def _leading_ids(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the processor puts before a prompt: the beginning of a text, or none."""
        try:
            with_all = self.processor(text=[prompt], **self._text_options)["input_ids"][0]
        except ValueError as error:
            raise ModelError(
                f"the processor of {_name_of(self.processor)} "
                f"({type(self.processor).__name__}) takes no text alone: {one_line(error)}"
            ) from error
        ids, plain = [int(token) for token in with_all], self._ids(prompt)
        n = len(ids) - len(plain)
        if ids[n:] != plain:
            raise ModelError(
                f"the processor of {_name_of(self.processor)} does not end a prompt where its chat "
                f"template does, but with {self.tokenizer.decode(ids)[-40:]!r}"
            )
        return (*ids[:n],)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if self._n_tokens and (top := max(ids, default=0)) >= self._n_tokens:
            token = self.tokenizer.convert_ids_to_tokens(top)
            raise ValueError(
                f"token {top} ({token!r}) is unknown to the model, which has {self._n_tokens}"
            )

    def prompt(self, request: Request) -> str:
        """The request in the checkpoint's chat format, up to the assistant's turn."""
        return self._prompt(_layout(request))

    def _prompt(self, layout: tuple[str | None, ...]) -> str:
        texts = iter(self._control.break_up([part for part in layout if part is not None]))
        content = [
            {"type": "image"} if part is None else {"type": "text", "text": next(texts)}
            for part in layout
        ]
        turn = [{"role": "user", "content": content}]
        prompt = render(self.processor, turn, add_generation_prompt=True)
        return prompt + self._format.ending

    def _tokens_of(
        self, layout: tuple[str | None, ...], images: tuple[str, ...] = ()
    ) -> tuple[int, ...]:
        text = self._prompt(layout)
        if images:
            (text,), _ = self.processor.get_text_with_replacements([text], [*images])
        return (*self._leading, *self._ids(text))

    def prompt_tokens(self, request: Request) -> tuple[int, ...]:
        """Token ids of ``prompt``, one for each image."""
        return self._cached_tokens(_layout(request))

    def tokens(self, text: str) -> list[int]:
        """Token ids of a part of an answer; a control token that it spells stays text."""
        (text,) = self._control.break_up([text])
        # Alone, a text would begin with a space for some tokenizers.
        ids, n = self._ids(self._format.header + text), len(self._header_ids)
        return ids[n:] if ids[:n] == self._header_ids else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        self._check_ids(ids)
        return ids

    def closed(self, answer: str) -> list[int]:
        """Token ids of a whole answer, closed as the chat template closes it."""
        opening = "" if answer.startswith(self._format.opening) else self._format.opening
        return [*self.tokens(opening + answer + self._format.closing), self.eos_id]

    def spells_control(self, text: str) -> bool:
        """True if a text spells a control token of the checkpoint."""
        return self._control.are_in(text)

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Texts of generated tokens, without control tokens."""
        kept = [[token for token in row if token not in self._control_ids] for row in rows]
        return self.tokenizer.batch_decode(kept, skip_special_tokens=True)

    def _split_choices(
        self, head: str, choices: tuple[str, ...]
    ) -> tuple[list[int], list[list[int]]]:
        rows = [self.closed(head + choice) for choice in choices]
        common = common_prefix(rows)
        return rows[0][:common], [row[common:] for row in rows]

    def batch(
        self, requests: Sequence[Request], continuations: Sequence[Sequence[int]] = ()
    ) -> dict[str, Tensor]:
        """One padded batch of prompts, each with the first tokens of its answer.

        Args:
            requests: B user turns.
            continuations: Token ids behind each prompt; empty for none.

        Returns:
            Arguments of the model's forward: ``input_ids``, ``attention_mask`` and whatever else
            the processor says of each token, of shape (B, T), and the images.
        """
        return self.collate([self.process(requests)], continuations)

    def batch_texts(
        self,
        requests: Sequence[Request],
        images: Sequence[Sequence[ImageText]],
        continuations: Sequence[Sequence[int]] = (),
        *,
        token: int,
        types: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """Tokens of one left-padded batch, as from `batch`, for images that are encoded already.

        Args:
            requests: B user turns.
            images: Texts in place of the images of each.
            continuations: Token ids behind each prompt; empty for none.
            token: Id of the token that stands for a feature of an image.
            types: Names of inputs that tell tokens of images from others.

        Raises:
            ValueError: The prompt has other runs of the token than its images.
        """
        rows = [
            self._cached_row(_layout(request), (*of_request,), token, (*types,))
            for request, of_request in zip(requests, images, strict=True)
        ]
        return self.collate(rows, continuations)

    def _row(
        self,
        layout: tuple[str | None, ...],
        images: tuple[ImageText, ...],
        token: int,
        types: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """Tokens of a prompt, shape (1, T): thousands stand for images, and are not tokenised."""
        ids = self._cached_tokens(layout, tuple(image.text for image in images))
        runs = torch.tensor([n for image in images for n in image.runs], dtype=torch.long)
        row = torch.tensor(ids)
        is_run = row == token
        if is_run.sum() != len(runs):
            raise ValueError(f"{is_run.sum()} runs of image tokens in a prompt, not {len(runs)}")
        times = torch.ones_like(row)
        times[is_run] = runs
        columns = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if types:
            kinds = torch.tensor(self.processor.create_mm_token_type_ids([[*ids]])[0])
            columns |= dict.fromkeys(types, kinds)
        return {name: column.repeat_interleave(times)[None] for name, column in columns.items()}

    def process(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Run the processor on B user turns: left-padded tokens of shape (B, T), and the images.

        Raises:
            ValueError: A text has a token that the model lacks, or the processor refuses an image.
        """
        # By request: LLaVA tiles an image only where it is alone in its request.
        images = [request.images for request in requests]
        inputs = dict(
            self.processor(
                text=[self.prompt(request) for request in requests],
                images=images if any(images) else None,
                padding=True,
                padding_side="left",
                return_tensors="pt",
                **self._text_options,
            )
        )
        self._check_ids(inputs["input_ids"].flatten().tolist())
        return inputs

    @cached_property
    def joins(self) -> bool:
        """True if prompts that were processed apart can be joined by `collate`.

        Tried on the processor: some lay out the images of a batch by all of its requests.
        """
        small, wide, tall = (
            PIL.Image.new("RGB", size, color)
            for size, color in (((64, 64), "red"), ((640, 96), "lime"), ((300, 512), "blue"))
        )
        requests = [Request((small, "a")), Request((wide, "b b", tall)), Request((tall, "c"))]
        try:
            whole = self.batch(requests)
            joined = self.collate([self.process([request]) for request in requests])
        except (ValueError, RuntimeError):  # shapes differ
            return False
        return joined.keys() == whole.keys() and all(
            torch.equal(joined[name], value) for name, value in whole.items()
        )

    def collate(
        self,
        processed: Sequence[Mapping[str, Tensor]],
        continuations: Sequence[Sequence[int]] = (),
    ) -> dict[str, Tensor]:
        """Join what `process` returned, with tokens behind each prompt, to one padded batch.

        Args:
            processed: Batches of user turns, B in all.
            continuations: Token ids behind each of the B prompts; empty for none.

        Returns:
            As from `batch`, and equal to it for the same turns where `joins`.
        """
        masks = [mask for part in processed for mask in part["attention_mask"].bool()]
        continuations = continuations or [()] * len(masks)
        inputs: dict[str, Tensor] = {}
        for name in {name: None for part in processed for name in part}:
            having = [part for part in processed if name in part]  # turns without images lack some
            if not all(_is_of_tokens(part[name], part["input_ids"]) for part in having):
                inputs[name] = _stack([part[name] for part in having])
                continue
            rows = [row for part in having for row in part[name]]
            inputs[name] = pad_sequence(
                [
                    torch.cat([row[mask], _behind(name, row, ids)])
                    for row, mask, ids in zip(rows, masks, continuations, strict=True)
                ],
                batch_first=True,
                padding_value=self.pad_id if name == "input_ids" else 0,
                padding_side=self.padding_side,
            )
        return inputs


def _behind(name: str, row: Tensor, ids: Sequence[int]) -> Tensor:
    """Entries of an input for the tokens behind a prompt, whose own entries are ``row``."""
    if name == "input_ids":
        return row.new_tensor(ids)
    if row.dim() > 1:  # images that each token sees
        return row[-1:].expand(len(ids), *row.shape[1:])
    return row.new_full((len(ids),), int(name == "attention_mask"))


def _is_of_tokens(tensor: Tensor, input_ids: Tensor) -> bool:
    """True if a tensor says something of each token."""
    return tensor.shape[:2] == input_ids.shape and not tensor.is_floating_point()


def _name_of(processor: Any) -> str:
    """Folder or hub id of a processor, or of a tokenizer that stands in its place."""
    name = getattr(getattr(processor, "tokenizer", processor), "name_or_path", "")
    return name or type(processor).__name__


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first dimension; the others are padded with zeros to the largest."""
    sizes = [max(side) for side in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all([*tensor.shape[1:]] == sizes for tensor in tensors):
        return torch.cat([*tensors]) if len(tensors) > 1 else tensors[0]
    out = tensors[0].new_zeros(sum(map(len, tensors)), *sizes)
    start = 0
    for tensor in tensors:
        out[start : start + len(tensor), *map(slice, tensor.shape[1:])] = tensor
        start += len(tensor)
    return out


def _layout(request: Request) -> tuple[str | None, ...]:
    """Parts of a request, each image as None."""
    return tuple(part if isinstance(part, str) else None for part in request.parts)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share, such that at least one is left of each."""
    shared = 0
    shortest = min(map(len, rows)) - 1
    while shared < shortest and len({row[shared] for row in rows}) == 1:
        shared += 1
    return shared


def _cap_pixels(image_processor: Any, max_pixels: int) -> None:
    """Lower the largest image of a processor that counts pixels; others have fixed tiles."""
    size = getattr(image_processor, "size", None)
    if size is None or not all(size.get(name) for name in ("shortest_edge", "longest_edge")):
        return

    def cap(pixels: int) -> int:
        low, high = (min(size[name], pixels) for name in ("shortest_edge", "longest_edge"))
        image_processor.size = type(size)(shortest_edge=low, longest_edge=high)
        return _largest(image_processor, pixels)

    # Some count the pixels of an image once for each frame of the clip that they make of it.
    times = max_pixels // max(cap(max_pixels), 1)
    if times > 1 and cap(times * max_pixels) > max_pixels:
        cap(max_pixels)


def _largest(image_processor: Any, pixels: int) -> int:
    """Pixels of the largest image that a processor makes; ``pixels`` if it does not say."""
    side = 2 * math.isqrt(pixels)
    made = image_processor([PIL.Image.new("RGB", (side, side))], return_tensors="pt")
    grids = made.get("image_grid_thw")
    return pixels if grids is None else int(grids[0].prod()) * image_processor.patch_size**2
