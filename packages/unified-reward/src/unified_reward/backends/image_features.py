"""Image features of a vision-language checkpoint, computed once per image.

Knows images and features, not the questions about them.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from unified_reward.backends.chat import ImageText


_MAX_BATCH_PIXELS = 2 * 1024 * 1024
"""Eight images of 512 x 512: more leave the cache of a CPU."""
_MAX_BATCH_IMAGES = 64
"""LLaVA-OneVision's processor takes time that grows with the square of the images in a pass."""
_CACHE_BYTES = 4 * 1024**3
_NOT_SHARED = {
    *("pooler_output", "deepstack_features"),
    *("last_hidden_state", "hidden_states", "attentions"),
}

_Key = tuple[int, bool]
_T = TypeVar("_T")


class ImageFeatures(NamedTuple):
    """Features of an image as the language model takes them."""

    text: ImageText
    """Text that the processor writes in place of the image's mark."""
    tokens: Tensor
    """Shape (n, width)."""
    deepstack: tuple[Tensor, ...]
    """Features that Qwen3-VL adds after its first layers, each of shape (n, width)."""
    inputs: Mapping[str, Tensor]
    """Inputs that positions depend on beside the tokens, such as Qwen's ``image_grid_thw``, numbers
    of patches over time, height and width, shape (1, 3)."""

    @property
    def n_bytes(self) -> int:
        """Memory of the features, in bytes."""
        return sum(tensor.nbytes for tensor in (self.tokens, *self.deepstack))


class ImageEncoder:
    """Encodes images; features are cached as long as their image lives, up to `_CACHE_BYTES`."""

    def __init__(
        self, model: Any, processor: Any, *, by_company: bool, type_ids: Sequence[str] = ()
    ) -> None:
        """Encode by a model and its processor.

        Args:
            model: A transformers vision-language model.
            processor: Its processor.
            by_company: Encode an image in the company of others apart from one that is alone in its
                request, which LLaVA cuts into tiles.
            type_ids: Names of inputs that tell tokens of images from others.
        """
        self._trunk = model.base_model
        self._model = model
        self._processor = processor
        self._by_company = by_company
        self.type_ids = type_ids
        self._features: dict[_Key, ImageFeatures] = {}
        self._accepted = inspect.signature(self._trunk.get_image_features).parameters.keys()
        self._positional = position_inputs(model)
        self.token = feature_token(model.config)
        """Id of the token that stands for a feature."""
        self._mark: str = processor.tokenizer.convert_ids_to_tokens(self.token)
        self._run_of_marks = re.compile(f"(?:{re.escape(self._mark)})+")
        self._kind: Any = None
        """Type of what the vision tower returns."""
        self._joins: Sequence[Callable[..., Any]] = []
        """By ``pooler_output`` and a layer of deepstack, how it joins the features of images."""
        self._shared: dict[str, Any] = {}
        """Fields beside features of single images."""

    @torch.inference_mode()
    def encode(self, images: Sequence[Sequence[Any]]) -> list[list[ImageFeatures]]:
        """Features of the images of each request, computed unless they are cached.

        Args:
            images: PIL images by request.
        """
        rows = [[((id(p), self._by_company and len(row) > 1), p) for p in row] for row in images]
        self._encode_new({key: image for row in rows for key, image in row})
        features = [[self._features[key] for key, _ in row] for row in rows]
        # Another thread may drop an image, and with it its features, at any time.
        n_bytes = sum(cached.n_bytes for cached in [*self._features.values()])
        while n_bytes > _CACHE_BYTES:
            n_bytes -= self._features.pop(next(iter(self._features))).n_bytes
        return features

    def _encode_new(self, images: Mapping[_Key, Any]) -> None:
        for in_company in (False, True):
            new = [
                (k, p) for k, p in images.items() if k[1] == in_company and k not in self._features
            ]
            for part in _parts(new, [p.width * p.height for _, p in new]):
                encoded = self._encode_part([image for _, image in part], in_company=in_company)
                for (key, image), features in zip(part, encoded, strict=True):
                    self._features[key] = features
                    weakref.finalize(image, self._features.pop, key, None)

    def _encode_part(self, images: list[Any], *, in_company: bool) -> list[ImageFeatures]:
        try:
            return self._run(images, in_company=in_company)
        except (ValueError, RuntimeError):
            if in_company or len(images) == 1:
                raise
            # Perception-LM takes images of one number of tiles only in a pass.
            return [self._run([image], in_company=False)[0] for image in images]

    def _run(self, images: list[Any], *, in_company: bool) -> list[ImageFeatures]:
        """Features of images: one pass of the processor, one of the vision tower."""
        mark = self._processor.image_token
        # Without another image, one would count as alone.
        batch = images * 2 if in_company and len(images) == 1 else images
        processed = self._processor(
            text=[mark * len(batch)] if in_company else [mark] * len(batch),
            images=[batch] if in_company else [[image] for image in batch],
            padding=True,
            return_tensors="pt",
            return_text_replacement_offsets=True,
            return_mm_token_type_ids=False,
        )
        texts = [
            self._in_runs(place["replacement"])
            for row in processed.pop("text_replacement_offsets")
            for place in row
        ]
        inputs = to_device(processed, self._model)
        out = self.run_tower(inputs)
        layers = getattr(out, "deepstack_features", None) or ()
        pooled = (out.pooler_output, *layers[:1])
        self._joins = [torch.cat if isinstance(value, Tensor) else tuple for value in pooled]
        self._kind = type(out)
        self._shared = {name: None if name in _NOT_SHARED else out[name] for name in out}
        sizes = [sum(text.runs) for text in texts]
        tokens = _split(out.pooler_output, sizes)
        layers = [_split(layer, sizes) for layer in layers]
        positional = {name: inputs[name] for name in self._positional if name in inputs}
        return [
            ImageFeatures(
                texts[i],
                tokens[i],
                tuple(layer[i] for layer in layers),
                {name: value[i : i + 1] for name, value in positional.items()},
            )
            for i in range(len(images))
        ]

    def _in_runs(self, text: str) -> ImageText:
        runs = [len(run) // len(self._mark) for run in self._run_of_marks.findall(text)]
        return ImageText(self._run_of_marks.sub(self._mark, text), (*runs,))

    def run_tower(self, inputs: Mapping[str, Any]) -> Any:
        """Output of the vision tower for what a processor returned, on the model's device."""
        given = {name: inputs[name] for name in self._accepted if name in inputs}
        return self._trunk.get_image_features(**given, return_dict=True)

    def join(self, images: Sequence[ImageFeatures]) -> dict[str, Any]:
        """Inputs of the model's forward beside the tokens, for all images of a batch in order."""
        if not images:
            return {}
        join, *join_layer = self._joins
        fields = self._shared | {"pooler_output": join([image.tokens for image in images])}
        if join_layer:
            layers = zip(*(image.deepstack for image in images), strict=True)
            fields["deepstack_features"] = [join_layer[0](layer) for layer in layers]
        positional = {
            name: torch.cat([image.inputs[name] for image in images]) for name in images[0].inputs
        }
        return {**positional, "mm_encoder_outputs": {"image": self._kind(**fields)}}


def feature_token(config: Any) -> int:
    """Token that stands for a feature of an image.

    Raises:
        AttributeError: The configuration names none.
    """
    token = getattr(config, "image_token_id", None)
    return config.image_token_index if token is None else token


def position_inputs(model: Any) -> tuple[str, ...]:
    """Inputs about images that the model computes its positions from."""
    rope = getattr(model.base_model, "get_rope_index", None)
    names = inspect.signature(rope).parameters if rope else ()
    return tuple(name for name in names if name.startswith("image_"))


def to_device(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Tensors on the model's device, those of real numbers in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


def _split(features: Any, sizes: Sequence[int]) -> list[Tensor]:
    """Features by image, of shapes (n, width), from those of all images or tiles.

    Raises:
        ValueError: There are more or fewer features than tokens.
    """
    joined = flat(features)
    if len(joined) != sum(sizes):
        raise ValueError(f"{len(joined)} image features for {sum(sizes)} tokens")
    # Copies: a view would keep the whole batch alive.
    return [part.clone() for part in joined.split([*sizes])]


def flat(features: Any) -> Tensor:
    """Features of all images or tiles as one tensor of shape (n, width)."""
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts])


def _parts(items: Sequence[_T], pixels: Sequence[int]) -> Iterator[list[_T]]:
    """Split items into parts of at most `_MAX_BATCH_IMAGES` and `_MAX_BATCH_PIXELS`, or of one."""
    part: list[_T] = []
    total = 0
    for item, size in zip(items, pixels, strict=True):
        if part and (len(part) == _MAX_BATCH_IMAGES or total + size > _MAX_BATCH_PIXELS):
            yield part
            part, total = [], 0
        part.append(item)
        total += size
    if part:
        yield part
