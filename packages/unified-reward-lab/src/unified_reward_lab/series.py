"""The microworld as a series of training examples, by its entry point ``microworld``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unified_reward.core.samples import Example
from unified_reward.data.series import Examples, Series, SeriesRequest
from unified_reward_lab.examples import CELLS, EDITING, MicroworldSeries
from unified_reward_lab.microworld import annotator, make_example


@dataclass(frozen=True)
class MicroworldOptions:
    """Options of training on the microworld."""

    cells: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CELLS, 1.0))
    """Relative weight of each cell, such as ``image_generation.score``."""
    annotator: str = "noiseless"
    """Name of the annotator that labels the items."""

    @property
    def trained_cells(self) -> list[str]:
        """Cells with a weight above 0."""
        return [cell for cell, weight in self.cells.items() if weight > 0]


def _train(options: MicroworldOptions, request: SeriesRequest) -> Examples:
    return MicroworldSeries(
        request.n,
        block=request.block,
        seed=request.seed,
        weights=options.cells,
        annotator=annotator(options.annotator),
        twins=request.twins,
    )


def _held_out(options: MicroworldOptions, n: int, seed: int) -> list[Example]:
    """New items of training captions, exactly labelled."""
    return [
        make_example(*(CELLS | EDITING)[cell], split="train", seed=seed, index=i)
        for cell in options.trained_cells
        for i in range(n)
    ]


def _previews(options: MicroworldOptions) -> dict[str, Example]:
    labeller = annotator(options.annotator)
    return {
        cell: make_example(
            *(CELLS | EDITING)[cell], split="train", seed=0, index=0, annotator=labeller
        )
        for cell in options.trained_cells
    }


MICROWORLD = Series("microworld", MicroworldOptions, _train, _held_out, _previews)
