"""Image features of a vision-language checkpoint, computed once per image.

Knows images and features, not the questions about them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures


_MAX_BATCH_PIXELS = 4 * 1024 * 1024
_CACHE_BYTES = 4 * 1024**3

_Key = tuple[int, bool]
_T = TypeVar("_T")


class ImageFeatures(NamedTuple):
    """Features of an image as the language model takes them."""

    tokens: Tensor
    """Shape (n, width)."""
    deepstack: tuple[Tensor, ...]
    """Features that Qwen3-VL adds after its first layers, each of shape (n, width)."""
    grid: Tensor | None
    """Qwen's number of patches over time, height and width, shape (3,)."""

    @property
    def n_bytes(self) -> int:
        """Memory of the features, in bytes."""
        return sum(tensor.nbytes for tensor in (self.tokens, *self.deepstack))


class ImageEncoder:
    """Encodes images; features are cached as long as their image lives, up to `_CACHE_BYTES`."""

    def __init__(self, model: Any, image_processor: Any) -> None:
        self._model = model
        self._image_processor = image_processor
        # LLaVA tiles an image only if it is the only one of its request.
        self._tiles = hasattr(model.config, "image_grid_pinpoints")
        self._features: dict[_Key, ImageFeatures] = {}

    @torch.inference_mode()
    def encode(self, images: Sequence[Sequence[Any]]) -> list[list[ImageFeatures]]:
        """Features of the images of each request, computed unless they are cached.

        Args:
            images: PIL images by request.
        """
        rows = [[((id(p), self._tiles and len(row) == 1), p) for p in row] for row in images]
        self._encode_new({key: image for row in rows for key, image in row})
        features = [[self._features[key] for key, _ in row] for row in rows]
        n_bytes = sum(cached.n_bytes for cached in self._features.values())
        while n_bytes > _CACHE_BYTES:
            n_bytes -= self._features.pop(next(iter(self._features))).n_bytes
        return features

    def _encode_new(self, images: Mapping[_Key, Any]) -> None:
        for single in (False, True):
            new = [(k, p) for k, p in images.items() if k[1] == single and k not in self._features]
            for part in _parts(new, [p.width * p.height for _, p in new]):
                encoded = self._run_vision_tower([image for _, image in part], single=single)
                for (key, image), features in zip(part, encoded, strict=True):
                    self._features[key] = features
                    weakref.finalize(image, self._features.pop, key, None)

    def _run_vision_tower(self, images: list[Any], *, single: bool) -> list[ImageFeatures]:
        """Features of images: one pass of the image processor, one of the vision tower."""
        # LLaVA takes one image in a request for a single one, which it tiles.
        batch = images * 2 if self._tiles and not single and len(images) == 1 else images
        nested = [[image] for image in batch] if single else [batch]
        processed = self._image_processor(nested, return_tensors="pt")
        inputs = {name: self._to_device(value) for name, value in processed.items()}
        out = self._model.model.get_image_features(**inputs, return_dict=True)
        grids = inputs.get("image_grid_thw", [None] * len(batch))
        # Copies: a view would keep the whole batch alive.
        layers = getattr(out, "deepstack_features", None) or []
        return [
            ImageFeatures(tokens.clone(), tuple(layer[i].clone() for layer in layers), grids[i])
            for i, tokens in enumerate(out.pooler_output[: len(images)])
        ]

    def _to_device(self, value: Tensor) -> Tensor:
        return value.to(
            self._model.device, self._model.dtype if value.is_floating_point() else None
        )


def join_features(images: Sequence[ImageFeatures]) -> BaseModelOutputWithDeepstackFeatures:
    """Features of several images as the model's forward takes them."""
    tokens: Any = tuple(image.tokens for image in images)
    deepstack: Any = [*zip(*(image.deepstack for image in images), strict=True)] or None
    return BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=deepstack)


def _parts(items: Sequence[_T], pixels: Sequence[int]) -> Iterator[list[_T]]:
    """Split items into parts of at most `_MAX_BATCH_PIXELS`, or of a single item."""
    part: list[_T] = []
    total = 0
    for item, size in zip(items, pixels, strict=True):
        if part and total + size > _MAX_BATCH_PIXELS:
            yield part
            part, total = [], 0
        part.append(item)
        total += size
    if part:
        yield part
