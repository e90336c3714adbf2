"""The pictures of a vision-language checkpoint as its language model sees them, each encoded once.

Knows pictures and features, not what is asked about them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures


_PIXELS_AT_ONCE = 4 * 1024 * 1024
_KEPT_BYTES = 4 * 1024**3

_Key = tuple[int, bool]
_T = TypeVar("_T")


class ImageFeatures(NamedTuple):
    """A picture as the language model sees it."""

    tokens: Tensor
    """Shape (n, width)."""
    deep: tuple[Tensor, ...]
    """What Qwen3-VL adds behind its first layers, each of shape (n, width)."""
    grid: Tensor | None
    """Qwen's patches in time, height and width, shape (3,)."""

    @property
    def n_bytes(self) -> int:
        """What the features take."""
        return sum(one.nbytes for one in (self.tokens, *self.deep))


class ImageEncoder:
    """Encodes pictures; features live as long as their picture, and the oldest go first."""

    def __init__(self, model: Any, image_processor: Any) -> None:
        self._model = model
        self._image_processor = image_processor
        # LLaVA tiles a picture only where it is alone in its request.
        self._tiles = hasattr(model.config, "image_grid_pinpoints")
        self._seen: dict[_Key, ImageFeatures] = {}

    @torch.inference_mode()
    def see(self, pictures: Sequence[Sequence[Any]]) -> list[list[ImageFeatures]]:
        """Features of the pictures of each request; of those seen before, what was kept."""
        rows = [[((id(p), self._tiles and len(row) == 1), p) for p in row] for row in pictures]
        self._encode({key: picture for row in rows for key, picture in row})
        told = [[self._seen[key] for key, _ in row] for row in rows]
        kept = sum(one.n_bytes for one in self._seen.values())
        while kept > _KEPT_BYTES:
            kept -= self._seen.pop(next(iter(self._seen))).n_bytes
        return told

    def _encode(self, pictures: Mapping[_Key, Any]) -> None:
        for alone in (False, True):
            new = [(k, p) for k, p in pictures.items() if k[1] == alone and k not in self._seen]
            for part in _parts(new, [p.width * p.height for _, p in new]):
                seen = self._look([picture for _, picture in part], alone=alone)
                for (key, picture), one in zip(part, seen, strict=True):
                    self._seen[key] = one
                    weakref.finalize(picture, self._seen.pop, key, None)

    def _look(self, pictures: list[Any], *, alone: bool) -> list[ImageFeatures]:
        """Features of pictures: one pass of the image processor, one of the vision tower."""
        # LLaVA takes one picture in a request for one that is alone.
        shown = pictures * 2 if self._tiles and not alone and len(pictures) == 1 else pictures
        nested = [[one] for one in shown] if alone else [shown]
        told = self._image_processor(nested, return_tensors="pt")
        inputs = {name: self._to(value) for name, value in told.items()}
        out = self._model.model.get_image_features(**inputs, return_dict=True)
        grids = inputs.get("image_grid_thw", [None] * len(shown))
        # Copies: a view would keep the whole batch alive.
        layers = getattr(out, "deepstack_features", None) or []
        return [
            ImageFeatures(tokens.clone(), tuple(layer[i].clone() for layer in layers), grids[i])
            for i, tokens in enumerate(out.pooler_output[: len(pictures)])
        ]

    def _to(self, value: Tensor) -> Tensor:
        return value.to(
            self._model.device, self._model.dtype if value.is_floating_point() else None
        )


def joined(seen: Sequence[ImageFeatures]) -> BaseModelOutputWithDeepstackFeatures:
    """Features of pictures as forward takes them."""
    tokens: Any = tuple(one.tokens for one in seen)
    deep: Any = [*zip(*(one.deep for one in seen), strict=True)] or None
    return BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=deep)


def _parts(items: Sequence[_T], pixels: Sequence[int]) -> Iterator[list[_T]]:
    """Items in parts of at most `_PIXELS_AT_ONCE`, or of one."""
    part: list[_T] = []
    held = 0
    for item, size in zip(items, pixels, strict=True):
        if part and held + size > _PIXELS_AT_ONCE:
            yield part
            part, held = [], 0
        part.append(item)
        held += size
    if part:
        yield part
