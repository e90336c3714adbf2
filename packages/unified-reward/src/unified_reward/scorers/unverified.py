"""Published systems that are not loaded here, with the known facts and the open questions.

``scorers check`` lists the content of a folder, so that users can report it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from torch import Tensor, nn

from unified_reward.checkpoints.tensor_keys import MappedTensor, State
from unified_reward.core.errors import ModelError
from unified_reward.core.samples import Sample, Task
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import ScoreCard


_MAX_LISTED = 8


class Unverified(Scorer):
    """A card without a model: a folder is described and refused."""

    needed: ClassVar = {}

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """Nothing is built; the tensors are counted by the beginnings of their names."""
        found = Counter(".".join(name.split(".")[:2]) for name in state)
        counts = ", ".join(f"{n} {stem}" for stem, n in found.most_common(_MAX_LISTED))
        raise ModelError(
            f"{cls.card.system} is not loaded here. {len(state)} tensors are there ({counts}). "
            f"Open: {'; '.join(cls.card.open_questions)}"
        )

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Not known."""
        cls._refuse()

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Not known."""
        cls._refuse()

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Not known."""
        self._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise ModelError(f"{cls.card.system} is not loaded here; see `unified-reward scorers`")


class VisionRewardImage(Unverified):
    """CogVLM2-19B in SAT format, and an 11 B model for the caption."""

    card = ScoreCard(
        name="visionreward-image",
        system="VisionReward-Image",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2412.21059",
        weights=("THUDM/VisionReward-Image", "THUDM/VisionReward-Image-bf16"),
        values="weighted answers to 30 questions, -2.537 to 4.891",
        overall="28 published weights, the first of VQAScore(clip-flant5-xxl)",
        code_licence="Apache-2.0",
        weights_licence="CogVLM2 and Llama 3",
        open_questions=(
            "depth of its EVA-CLIP tower",
            "names of its SAT tensors",
            "layout of clip-flant5-xxl; `checklist-image` asks another model its questions",
        ),
        state="unverified",
    )
    weights = ("1/mp_rank_00_model_states.pt", "*/mp_rank_00_model_states.pt")
