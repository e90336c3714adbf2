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


class IXCReward(Unverified):
    """InternLM2-7B whose linear maps have adapters at image tokens alone."""

    card = ScoreCard(
        name="ixc-2.5-reward",
        system="InternLM-XComposer-2.5-Reward",
        tasks=(Task.IMAGE_UNDERSTANDING,),
        paper="2501.12368",
        weights=("internlm/internlm-xcomposer2d5-7b-reward",),
        values="about -10 to 10, higher is better",
        code_licence="Apache-2.0",
        weights_licence="free for research; for trade by a form",
        open_questions=(
            "name and shape of its head",
            "whether its adapters see the separators of tiles",
            "its tokenizer, which is code of its own",
        ),
        state="unverified",
    )
    weights = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
