"""Sheets of samples of a few prompts, written while a pipeline is trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unified_reward import media, policies
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Example, Image, PreferencePair, Task, Video
from unified_reward.io.atomic import write_bytes
from unified_reward.policies.diffusion import DiffusionPolicy


class SampleSheet:
    """Images with samples of a few prompts, always of the same seeds; of edits the source too."""

    def __init__(
        self, maker: DiffusionPolicy, prompts: Sequence[Example | PreferencePair], folder: Path
    ) -> None:
        self._maker, self._prompts, self.folder = maker, prompts, folder
        self.prompts = [row.prompt for row in prompts]
        """Prompts of the rows, from top to bottom."""

    def write(self, step: int) -> None:
        """Write an image with a row for each prompt; videos as their first and last frames."""
        rows: list[Tensor] = []
        for row in self._prompts:
            # A source that was lost since it was encoded, or a prompt that the pipeline refuses.
            with suppress(MediaError, ValueError):
                rows += self._tiles(row)
        if not rows:  # the pipeline withheld every sample
            return
        sheet = torch.nn.utils.rnn.pad_sequence(
            [row.movedim(1, 0) for row in rows], batch_first=True
        )
        pixels = sheet.movedim(1, 2).flatten(0, 1).numpy()
        png = media.encode_png(media.open_image(Image(pixels, "HWC")))
        write_bytes(self.folder / f"step-{step:06}.png", png)

    def _tiles(self, row: Example | PreferencePair) -> list[Tensor]:
        context = row.context if row.task is Task.IMAGE_EDITING else ()
        samples = self._maker.sample(row.prompt, context, policies.seeds(row.prompt, 4, 0))
        tiles = [_preview(sample) for sample in samples if sample is not None]
        if tiles and context:
            source, height = self._maker.open_source(context), len(tiles[0])
            width = max(1, round(source.width * height / source.height))
            pixels = np.array(source.resize((width, height)))
            tiles.insert(0, torch.from_numpy(pixels))
        return [torch.cat(tiles, 1)] if tiles else []


def _preview(sample: Image | Video) -> Tensor:
    pixels = torch.from_numpy(sample.source)
    return pixels if pixels.ndim == 3 else torch.cat([pixels[0], pixels[-1]], 1)
