"""Base class of image scorers; gradients reach the pixels that a generator passes in."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as tv

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import State, depth, shape
from unified_reward.core.errors import DataError, MediaError, ModelError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Scored
from unified_reward.scorers.base import Prepared, Scorer


MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
"""Mean and deviation of pixels, as of OpenAI's CLIP."""
SIDE = 224
_LEVELS = 1.25
"""Largest difference, in levels of 255, of pixels that PIL and `resize_as_pil` resize.

PIL rounds after each of two passes, by 0.5: the first times 1.25, the sum of the sizes of bicubic
weights, and the second make 1.125; the rest is for PIL's weights, which are integers.
"""
_THIN = 32
"""Ratio of sides above which the middle alone is resized: the whole may take gigabytes."""
CONVERTED_FIRST = (
    "a palette or CMYK image becomes RGB before it is resized, in the released code afterwards "
    "(a palette by nearest neighbour): on random weights up to a quarter of the range of scores "
    "for a palette, 0.0004 of it for CMYK"
)
"""Deviation of scorers whose released code resizes what PIL opened."""


class TensorScorer(Scorer):
    """Base class of scorers with gradients to the pixels of an image."""

    @abstractmethod
    def prepare_tensors(self, pixels: Tensor, prompts: Sequence[str]) -> list[Prepared]:
        """Inputs as of ``prepare``, with gradients to B images in [0, 1], shape (B, 3, H, W)."""

    def score_tensors(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of images in memory, with gradients to their pixels.

        Where the released code resizes PIL images, tensors are resized in the same way without
        PIL's rounding to whole levels, by which alone the scores differ from those of ``score``.

        Args:
            pixels: float, shape (B, 3, H, W), in [0, 1].
            prompts: B captions.

        Returns:
            Scores in the unit of the card, shape (B,).

        Raises:
            MediaError: Another shape or dtype.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise MediaError(
                f"pixels are float of shape (B, 3, H, W) in [0, 1], not {pixels.dtype} "
                f"of {tuple(pixels.shape)}"
            )
        if len(pixels) != len(prompts):
            raise DataError(
                f"{len(pixels)} images and {len(prompts)} captions; give one caption per image"
            )
        return self.forward(self.prepare_tensors(pixels, prompts))[:, 0]

    def check_tensors(self, image: Image, caption: str) -> None:
        """Prove on an image that `score_tensors` scores what ``score`` does.

        Raises:
            ModelError: Pixels are prepared in another way, by more than PIL's rounding, or make
                another score; the message has the difference.
            MediaError: The image cannot be opened.
        """
        sample = Sample(Task.IMAGE_GENERATION, caption, (image,))
        picture, wanted = media.open_image(image), self.prepare(sample)
        pixels = tv.to_dtype(tv.to_image(picture), torch.float32, scale=True).as_subclass(Tensor)
        (prepared,) = self.prepare_tensors(pixels[None], [caption])
        levels = 255 * max(STD) * float((prepared.pixels - wanted.pixels).abs().max())
        if not levels <= _LEVELS:
            raise ModelError(
                f"{self.name} prepares tensors of {picture.width} x {picture.height} pixels in "
                f"another way than images: they are {levels:.1f} levels of 255 apart, and rounding "
                f"explains {_LEVELS}"
            )
        (verdict,) = self.ask([sample])
        with torch.enable_grad():
            point = float(self.forward([replace(prepared, pixels=wanted.pixels)])[0, 0])
        value = verdict.score.value if isinstance(verdict, Scored) and verdict.score else math.nan
        half = 4 * torch.finfo(self.dtype).eps
        if not math.isclose(point, value, rel_tol=max(1e-3, half), abs_tol=max(1e-5, half)):
            raise ModelError(f"{self.name} scores {point} with gradients and {value} without")


class ImageScorer(TensorScorer):
    """Base class of scorers of an image and its caption."""

    default_dtype = "float32"
    control: ClassVar[tuple[str, ...]] = ()
    """Control tokens of the tokenizer, at which a caption would end or begin anew."""

    @staticmethod
    @abstractmethod
    def fit(image: media.PILImage) -> Tensor:
        """Prepare an image as the released code does, shape (3, 224, 224), float32."""

    @staticmethod
    def fit_tensor(pixels: Tensor) -> Tensor:
        """Prepare pixels in [0, 1] of shape (B, 3, H, W) so that gradients pass."""
        return normalised(short_side(pixels))

    @abstractmethod
    def points(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of prepared pixels, shape (B,)."""

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The image prepared, the caption unchanged; see ``Scorer.prepare``."""
        medium = sample.candidates[0]
        if not isinstance(medium, Image):
            raise DataError(f"an image was expected, not a {type(medium).__name__}")
        for token in cls.control:
            if token in sample.prompt:
                raise DataError(f"the caption holds {token!r}, which is not read as text")
        return Prepared(sample.prompt, cls.fit(media.open_image(medium)))

    def prepare_tensors(self, pixels: Tensor, prompts: Sequence[str]) -> list[Prepared]:
        """See `fit_tensor`."""
        return [*map(Prepared, prompts, self.fit_tensor(pixels))]

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Scores as one column."""
        pixels = torch.stack([one.pixels for one in batch]).to(self.device, self.dtype)
        return self.points(pixels, [one.text for one in batch])[:, None]


def fit_square(image: media.PILImage) -> Tensor:
    """Short side to 224 by PIL's bicubic, the middle square, normalised: OpenAI's way."""
    is_thin = max(image.size) > _THIN * min(image.size)
    square = _middle_square(image) if is_thin else short_side(image)
    return normalised(tv.to_dtype(tv.to_image(square), torch.float32, scale=True))


def linear_stack(state: State, stem: str) -> nn.Sequential:
    """Linear maps ``STEM.0``, ``STEM.2``, …; dropouts of training, without tensors, do nothing."""
    layers: list[nn.Module] = []
    for i in range(depth(state, stem)):
        name = f"{stem}.{i}.weight"
        if name in state:
            rows, columns = shape(state, name)
            layers.append(nn.Linear(columns, rows))
        else:
            layers.append(nn.Identity())
    return nn.Sequential(*layers)


def short_side(pixels: Any) -> Any:
    """Resize the short side of a PIL image or tensor to 224 (bicubic); crop the middle square.

    Raises:
        MediaError: It is so long that it would have too many pixels meanwhile.
    """
    height, width = tv.get_size(pixels)
    check_length(height, width)
    size = short_size(height, width)
    if isinstance(pixels, Tensor):
        resized = resize_as_pil(pixels, *size)
    else:
        resized = tv.resize(pixels, [*size], tv.InterpolationMode.BICUBIC)
    return tv.center_crop(resized, [SIDE])


def short_size(height: int, width: int) -> tuple[int, int]:
    """Height and width where the short side is 224, rounded down.

    >>> short_size(100, 67)
    (334, 224)
    """
    short = min(height, width)
    return int(SIDE * height / short), int(SIDE * width / short)


def resize_as_pil(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize tensors in [0, 1] as PIL's bicubic does, without its rounding to whole levels.

    First along the rows, and nothing is beyond black and white after either pass.
    """
    for size in ((pixels.shape[-2], width), (height, width)):
        if size != (*pixels.shape[-2:],):
            pixels = interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
    return pixels


def _middle_square(image: media.PILImage) -> media.PILImage:
    """The square that is cut from the middle of a thin image, without resizing the rest."""
    width, height = image.size
    short, long = sorted(image.size)
    length = int(SIDE * long / short)
    begin = round((length - SIDE) / 2)
    start, end = (place * long / length for place in (begin, begin + SIDE))
    box = (start, 0, end, height) if width > height else (0, start, width, end)
    return image.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC, box=box)


def check_length(height: int, width: int) -> None:
    """Refuse pixels that would be too many once the short side is 224.

    Raises:
        MediaError: They would.
    """
    if SIDE * SIDE * max(height, width) > media.LIMITS.max_pixels * min(height, width):
        raise MediaError(f"{width} x {height} pixels are too long to be resized to {SIDE} a side")


def normalised(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] minus the mean, divided by the deviation of each channel."""
    return tv.normalize(pixels, MEAN, STD)
