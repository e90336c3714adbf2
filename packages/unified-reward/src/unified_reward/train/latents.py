"""Preference pairs of images or videos as latents and conditions, made once, kept on disk.

Knows nothing of the loss.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image as PILImage
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError, MediaError, one_line
from unified_reward.core.samples import Candidate, Image, PreferencePair, Task, Video
from unified_reward.io.atomic import write_bytes
from unified_reward.policies import Size
from unified_reward.policies.packing import FORM
from unified_reward.train.bad_items import BAD_ITEM
from unified_reward.train.denoisers import Condition, Denoiser


_FRAME_RULE = "linspace_inclusive"
_SAME_RATIO = 0.1
"""Largest difference of the logarithms of two aspect ratios that count as the same; sizes of edits
are rounded to multiples of up to 32 pixels."""


@dataclass(frozen=True)
class Resolution:
    """Size of encoded media; None for that of the first pair that can be read."""

    height: int | None = None
    """Pixels; larger media are scaled and cropped at the centre, here and in width."""
    width: int | None = None
    """Pixels."""
    frames: int | None = None
    """Frames of a video, sampled by ``linspace_inclusive``."""


class EncodedPairs:
    """Pairs as files of ``chosen`` and ``rejected`` latents and the condition of both."""

    def __init__(self, files: Mapping[str, Path], log: Callable[[str], None]) -> None:
        """Know the files by the ids of their pairs."""
        self.names = frozenset(files)
        self._files = [*files.items()]
        self._log = log
        self._lost: set[str] = set()

    def __len__(self) -> int:
        return len(self._files)

    def batch(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor, Condition]:
        """Latents of B chosen and B rejected samples, and the condition of both.

        In place of a pair whose file was lost or torn the next one is taken, and the loss logged.

        Raises:
            DataError: No file can be read any more.
        """
        rows = [self._read(i) for i in indices]
        chosen, rejected = (
            torch.stack([row.pop(side) for row in rows]).to(device)
            for side in ("chosen", "rejected")
        )
        # Calls of edits and of generation have other tensors, of which each reads its own.
        names = {name: None for row in rows for name in row}
        # The CPU reads the form in every pass, and a GPU would be waited for.
        devices = {FORM: torch.device("cpu")}
        columns = {
            name: _stack([row.get(name, torch.empty(0)) for row in rows], devices.get(name, device))
            for name in names
        }
        return chosen, rejected, columns

    def _read(self, index: int) -> dict[str, Tensor]:
        n = len(self._files)
        for i in range(index, index + n):
            name, file = self._files[i % n]
            try:
                return load_file(file)
            except (OSError, SafetensorError) as error:
                if name not in self._lost:
                    self._log(f"pair {name!r}: {file} cannot be read any more: {one_line(error)}")
                self._lost.add(name)
        raise DataError("none of the encoded pairs can be read any more")


def _stack(values: list[Tensor], device: torch.device) -> Tensor | list[Tensor]:
    """One tensor, or the values where their shapes differ."""
    if len({value.shape for value in values}) == 1:
        return torch.stack(values).to(device)
    return [value.to(device) for value in values]


@torch.no_grad()
def encode_pairs(
    pairs: Sequence[PreferencePair],
    denoiser: Denoiser,
    folder: Path,
    resolution: Resolution,
    log: Callable[[str], None],
) -> EncodedPairs:
    """Encode the pairs that the folder does not have yet; those that cannot be are left out.

    Args:
        pairs: Pairs of the pipeline's task.
        denoiser: Computes latents and conditions.
        folder: Folder of the files, which belong to this pipeline and resolution.
        resolution: Size of the media.
        log: Called with the reason for each pair that is left out: media that cannot be read, a
            prompt longer than the text encoder reads, candidates with the same pixels, an edit
            whose source is not one image.

    Raises:
        ConfigError: Height or width does not fit the pipeline.
        ModelError: The pipeline samples in a way that cannot be repeated.
        DataError: No pair is left, or the folder cannot be written.
    """
    paths = [folder / f"{_file_stem(pair)}.safetensors" for pair in pairs]
    missing = [not _is_complete(path) for path in paths]
    first = first_readable(pairs, resolution) if any(missing) else None
    resolution = resolve_resolution(resolution, first, denoiser.policy.size_multiple)
    size = sample_size(resolution, denoiser)
    conditions = _Conditions(denoiser, size)
    files: dict[str, Path] = {}
    todo = track(
        zip(pairs, paths, missing, strict=True),
        description="encoding pairs",
        total=len(pairs),
        disable=len(pairs) < 100,
    )
    for pair, path, is_missing in todo:
        if is_missing:
            try:
                opened = first.clip if first and first.pair is pair else None
                row = _encode(pair, denoiser, size, resolution.frames, conditions, opened)
            except BAD_ITEM as error:
                log(f"pair {pair.id!r}: {one_line(error)}")
                continue
            write_bytes(path, save(row))
        files[pair.id] = path
    if not files:
        raise DataError("no pair is left to learn from; the reasons are logged for each")
    return EncodedPairs(files, log)


def _file_stem(pair: PreferencePair) -> str:
    """Name of a pair's file; of an edit it depends on the instruction and the source image too."""
    key = pair.id
    if pair.task is Task.IMAGE_EDITING:
        with suppress(MediaError):  # reported when the pair is encoded
            sources = [media.content_hash(part) for part in pair.context]
            key = json.dumps([pair.id, pair.prompt, *sources], allow_nan=False)
    return hashlib.sha256(key.encode()).hexdigest()[:32]


class _Conditions:
    """Conditions of pairs; the last few are kept, since pairs of one prompt follow each other."""

    def __init__(self, denoiser: Denoiser, size: Size) -> None:
        self._denoiser, self._size = denoiser, size
        self._encode = lru_cache(maxsize=16)(self._encode_anew)

    def encode(self, pair: PreferencePair, candidate_size: tuple[int, int]) -> dict[str, Tensor]:
        """Condition of a pair whose chosen image has this height and width."""
        if pair.task is Task.IMAGE_EDITING:
            return self._encode(pair.prompt, pair.context, candidate_size)
        return self._encode(pair.prompt)

    def _encode_anew(
        self,
        prompt: str,
        context: tuple[Image | Video, ...] | None = None,
        candidate_size: tuple[int, int] = (0, 0),
    ) -> dict[str, Tensor]:
        source = None
        if context is not None:
            source = self._denoiser.policy.open_source(context)
            source = cut_alike(source, candidate_size, self._size[:2])
        return self._denoiser.encode_prompt(prompt, self._size, source)


def cut_alike(source: PILImage, candidate_size: tuple[int, int], size: tuple[int, int]) -> PILImage:
    """Cut a source as its edits are cut, where it has their proportions.

    Args:
        source: Source image.
        candidate_size: Height and width of the edits.
        size: Height and width that they are scaled and cut to.
    """
    ratio, edited, wanted = (
        width / height for height, width in (source.size[::-1], candidate_size, size)
    )
    if abs(math.log(ratio / edited)) > _SAME_RATIO or ratio == wanted:
        return source
    width = min(source.width, round(source.height * wanted))
    height = min(source.height, round(source.width / wanted))
    return ImageOps.fit(source, (width, height))


def _is_complete(path: Path) -> bool:
    try:
        return path.is_file() and FORM in load_file(path)
    except SafetensorError:
        return False


def _encode(
    pair: PreferencePair,
    denoiser: Denoiser,
    size: Size,
    frames: int | None,
    conditions: _Conditions,
    opened: media.SampledFrames | None,
) -> dict[str, Tensor]:
    clips = [opened or _frames(pair.chosen, frames), _frames(pair.rejected, frames)]
    pixels = [_pixels(clip, size) for clip in clips]
    two = torch.stack(pixels if isinstance(pair.chosen, Video) else [p[:, 0] for p in pixels])
    if torch.equal(two[0], two[1]):
        raise DataError("chosen and rejected have the same pixels")
    height, width = clips[0].pixels.shape[1:3]
    condition = conditions.encode(pair, (height, width))
    chosen, rejected = denoiser.encode_pixels(two / 127.5 - 1, size).float()
    row = {"chosen": chosen, "rejected": rejected, **condition}
    if not all(bool(value.isfinite().all()) for value in row.values()):
        raise DataError("its latents or its condition are not finite; try another dtype")
    return {name: value.cpu().contiguous() for name, value in row.items()}


class FirstReadable(NamedTuple):
    """The first pair whose chosen image or video can be read, with its frames."""

    pair: PreferencePair
    clip: media.SampledFrames


def first_readable(pairs: Sequence[PreferencePair], resolution: Resolution) -> FirstReadable | None:
    """Open chosen media up to the first that can be read, if the resolution leaves anything open.

    Returns:
        The pair; None if no size is missing, or nothing can be read.
    """
    for pair in pairs:
        is_video = isinstance(pair.chosen, Video)
        if resolution.height and resolution.width and (resolution.frames or not is_video):
            return None
        try:
            return FirstReadable(pair, _frames(pair.chosen, resolution.frames))
        except (MediaError, DataError):
            continue
    return None


def resolve_resolution(
    resolution: Resolution, first: FirstReadable | None, size_multiple: int
) -> Resolution:
    """Fill in missing sides and frames from the first pair, see `first_readable`.

    Raises:
        ConfigError: A side is not a multiple of ``size_multiple``.
    """
    if first:
        height, width = first.clip.pixels.shape[1:3]
        resolution = Resolution(
            resolution.height or height // size_multiple * size_multiple,
            resolution.width or width // size_multiple * size_multiple,
            resolution.frames or first.clip.n_source,
        )
    sides = (resolution.height, resolution.width)
    if any(side is not None and (side < 1 or side % size_multiple) for side in sides):
        raise ConfigError(
            f"height and width must be multiples of {size_multiple} above 0 for this pipeline, "
            f"not {resolution.height} and {resolution.width}"
        )
    return resolution


def sample_size(resolution: Resolution, denoiser: Denoiser) -> Size:
    """Size of the samples of a denoiser, with frames repeated to as many as it takes."""
    stride, frames = denoiser.policy.temporal_stride, resolution.frames or 1
    return Size(
        resolution.height or 0,
        resolution.width or 0,
        frames + padding_frames(frames, stride) if stride else None,
    )


def padding_frames(frames: int, temporal_stride: int | None) -> int:
    """Repeats of the last frame that make ``k * temporal_stride + 1`` frames of so many."""
    return -(frames - 1) % (temporal_stride or 1)


def _frames(candidate: Candidate, n: int | None) -> media.SampledFrames:
    """Sample n frames of a video, or take all for None; an image is one frame."""
    if isinstance(candidate, Video):
        return media.select_frames(
            candidate, lambda length, _: media.frame_indices(length, n or length, _FRAME_RULE)
        )
    if isinstance(candidate, Image):
        return media.SampledFrames(np.asarray(media.open_image(candidate))[None], None, 1)
    raise DataError("a candidate of several parts cannot be generated by a pipeline")


def _pixels(clip: media.SampledFrames, size: Size) -> Tensor:
    """Pixels in [0, 255] of the size, padded with the last frame. Shape (3, T, H, W)."""
    sides = (size.width, size.height)
    frames = [
        frame if frame.size == sides else ImageOps.fit(frame, sides) for frame in clip.images()
    ]
    frames += frames[-1:] * ((size.frames or 1) - len(frames))
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return pixels.movedim(-1, 0).float()
