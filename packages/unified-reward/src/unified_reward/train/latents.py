"""Preference pairs of pictures or clips as latents and conditions, made once and kept on disk.

Knows nothing of how they are learned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.samples import Candidate, Image, PreferencePair, Video
from unified_reward.train.denoisers import Denoiser


@dataclass(frozen=True)
class Resolution:
    """How large encoded media are; None: as those of the first pair that can be read."""

    height: int | None = None
    """In pixels, as is the width; what is larger is scaled and cut at the centre."""
    width: int | None = None
    frames: int | None = None
    """Of a clip, ``linspace_inclusive``."""


class EncodedPairs:
    """Pairs as files of ``chosen``, ``rejected`` and what the network sees of the prompt."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def batch(
        self, places: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents of B chosen and B rejected samples, and the condition of both."""
        rows = [load_file(self._files[i]) for i in places]
        told = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        return told.pop("chosen"), told.pop("rejected"), told


@torch.no_grad()
def encode_pairs(
    pairs: Sequence[PreferencePair],
    denoiser: Denoiser,
    folder: Path,
    resolution: Resolution,
    log: Callable[[str], None],
) -> EncodedPairs:
    """Encode pairs that are not encoded in the folder yet; those that cannot be are left out.

    Args:
        pairs: Of the task of the pipeline.
        denoiser: Makes latents and conditions.
        folder: Where they are kept; its files belong to this pipeline and extent.
        extent: How large they are to be.
        log: Told why a pair is left out: media that cannot be read, a prompt with more tokens
            than are read, candidates with the same pixels.

    Raises:
        DataError: No pair is left, or the folder cannot be written.
    """
    resolution = resolve_resolution(resolution, pairs, denoiser.size_multiple)
    files: list[Path] = []
    for pair in track(pairs, description="encoding pairs", disable=len(pairs) < 100):
        path = folder / f"{hashlib.sha256(pair.id.encode()).hexdigest()[:32]}.safetensors"
        if not _is_whole(path):
            try:
                row = _encoded(pair, denoiser, resolution)
            except (MediaError, DataError) as error:
                log(f"pair {pair.id!r}: {error}")
                continue
            _write(path, row)
        files.append(path)
    if not files:
        raise DataError("no pair is left to learn from; see what was told of each")
    return EncodedPairs(files)


def _is_whole(path: Path) -> bool:
    try:
        return path.is_file() and bool(load_file(path))
    except SafetensorError:
        return False


def _write(path: Path, row: Mapping[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: one.cpu().contiguous() for name, one in row.items()}, part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def _encoded(pair: PreferencePair, denoiser: Denoiser, resolution: Resolution) -> dict[str, Tensor]:
    if over := denoiser.prompt_overflow(pair.prompt):
        raise DataError(f"its prompt has {over[0]} tokens, and the text encoder reads {over[1]}")
    two = torch.stack(
        [_pixels(one, resolution, denoiser.temporal_stride) for one in (pair.chosen, pair.rejected)]
    )
    if torch.equal(two[0], two[1]):
        raise DataError("its chosen and rejected one have the same pixels")
    vae = denoiser.pipeline.vae
    chosen, rejected = denoiser.encode_pixels((two / 127.5 - 1).to(vae.device)).float()
    condition = denoiser.encode_prompts([pair.prompt])
    return {"chosen": chosen, "rejected": rejected} | {k: v[0] for k, v in condition.items()}


def resolve_resolution(
    resolution: Resolution, pairs: Sequence[PreferencePair], block: int
) -> Resolution:
    """The extent with what it leaves open taken from the first picture or clip that opens.

    Raises:
        ConfigError: A side is no multiple of the block.
    """
    for pair in pairs:
        try:
            clip = _clip(pair.chosen, 1)
        except (MediaError, DataError):
            continue
        height, width = clip.pixels.shape[1:3]
        resolution = Resolution(
            resolution.height or height // block * block,
            resolution.width or width // block * block,
            resolution.frames or clip.n_source,
        )
        break
    sides = (resolution.height, resolution.width)
    if any(one is not None and (not one or one % block) for one in sides):
        raise ConfigError(
            f"height and width are multiples of {block} above 0 for this pipeline, "
            f"not {resolution.height} and {resolution.width}"
        )
    return resolution


def padding_frames(frames: int, rest: int | None) -> int:
    """How often the last frame comes again, so that there is one more than a multiple of rest."""
    return -(frames - 1) % (rest or 1)


def _clip(shown: Candidate, n: int) -> media.SampledFrames:
    """A clip of n frames; a picture is one of one frame."""
    if isinstance(shown, Video):
        return media.sample_frames(shown, n)
    if isinstance(shown, Image):
        return media.SampledFrames(np.asarray(media.open_image(shown))[None], None, 1)
    raise DataError("a candidate of several parts cannot be drawn")


def _pixels(shown: Candidate, resolution: Resolution, rest: int | None) -> Tensor:
    """Values 0 to 255, shape (3, H, W), or (3, T, H, W) of a clip."""
    size = (resolution.width or 0, resolution.height or 0)
    told = [
        one if one.size == size else ImageOps.fit(one, size)
        for one in _clip(shown, resolution.frames or 1).images()
    ]
    told += told[-1:] * padding_frames(len(told), rest)
    pixels = torch.from_numpy(np.stack([np.asarray(one) for one in told])).movedim(-1, 0).float()
    return pixels if isinstance(shown, Video) else pixels[:, 0]
