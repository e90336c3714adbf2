"""A published point model behind the verbs of a judge.

Each candidate is prepared without weights, scored alone, and read into aspects and an overall
value; a comparison follows from two values. Knows no system in particular.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unified_reward.backends.batching import bisect_failures
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, weight_files
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Verdict
from unified_reward.scorers.card import ScoreCard


_CERTAIN = 36.0
"""Log-odds beyond are told apart no more."""
_TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")


@dataclass(frozen=True)
class Prepared:
    """One candidate as a model takes it, but for the words as tokens."""

    text: str
    """The caption, or the whole prompt around it."""
    pixels: Tensor
    """float32; (3, H, W) of a picture, (n, 3, H, W) of frames, or (patches, values) for Qwen-VL."""
    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    """Which pixels are no padding, (n, H, W)."""
    grid: tuple[int, int, int] = (0, 0, 0)
    """Patches over time, height and width."""
    notes: tuple[str, ...] = ()
    """What a reader of the score should know, such as frames shown twice."""


class Scorer(BaseJudge):
    """A published point model. A second order changes nothing, so none is asked."""

    card: ClassVar[ScoreCard]
    weights: ClassVar[tuple[str, ...]]
    """Patterns of its weight files; the first that is there counts."""
    needed: ClassVar[Mapping[str, tuple[str, ...]]] = {"tokenizer": _TOKENIZER}
    """Other files by what they are for: any one of each."""
    ignored: ClassVar[Mapping[str, str]] = {}
    """Tensors left out on purpose: regular expressions of their names, and why."""
    family = ""
    order_free = True

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        self.name = f"{self.card.name}:{folder}"
        self.module: Any = module.eval().requires_grad_(requires_grad=False)
        self.batch_size = batch_size
        self._kept: dict[tuple[str, Candidate], Verdict] | None = None

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """Those of its weights that a folder holds.

        Raises:
            ModelError: An index names shards that are not there.
        """
        return weight_files(folder, cls.weights)

    @classmethod
    @abstractmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """The module that the tensors fit into.

        Raises:
            ModelError: They are other weights.
        """

    @classmethod
    @abstractmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The tensors of a file by the names of the module."""

    @classmethod
    @abstractmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """A sample with one candidate as the model takes it; needs no weights.

        Raises:
            MediaError: The candidate cannot be opened.
            ConfigError: The wording it is asked with is not imported.
            DataError: The caption holds a mark that stands for pixels.
        """

    @abstractmethod
    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """What the model says, shape (B, outputs), float32."""

    def decode(self, raw: Sequence[float]) -> Scored:
        """One row of outputs as scores."""
        return Scored(Score(raw[0], self.card.scale))

    def notes(self, prepared: Prepared) -> tuple[str, ...]:
        """What is to be said beside the score."""
        return prepared.notes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.module.parameters()).dtype

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """A candidate scored within is not scored again."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Why each sample cannot be asked; opens what they show."""
        told = [[self._prepared(one) for one in _alone(sample)] for sample in samples]
        return [next((p for p in each if isinstance(p, Failed)), None) for each in told]

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Judge every sample; see ``BaseJudge.ask``. A candidate met twice is scored once."""
        known = {} if self._kept is None else self._kept
        wanted = {_key(one): one for sample in samples for one in _alone(sample)}
        left = [one for key, one in wanted.items() if key not in known]
        for start in range(0, len(left), self.batch_size):
            batch = left[start : start + self.batch_size]
            for one, verdict in zip(batch, self._scored(batch), strict=True):
                known[_key(one)] = verdict
        read = [[known[_key(one)] for one in _alone(sample)] for sample in samples]
        return [self._verdict(*each) for each in zip(samples, read, strict=True)]

    def _scored(self, samples: Sequence[Sample]) -> list[Verdict]:
        prepared = [self._prepared(one) for one in samples]
        ready = [one for one in prepared if not isinstance(one, Failed)]
        scored = iter(bisect_failures(ready, self._read, self.name) if ready else [])
        return [one if isinstance(one, Failed) else next(scored) for one in prepared]

    def _prepared(self, sample: Sample) -> Prepared | Failed:
        try:
            _check(sample, self.card)
            return self.prepare(sample)
        except (MediaError, ConfigError, DataError) as error:
            return Failed(str(error), error)

    @torch.inference_mode()
    def _read(self, batch: list[Prepared]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for raw, prepared in zip(self.forward(batch).tolist(), batch, strict=True):
            if not all(map(math.isfinite, raw)):
                verdicts.append(Failed(f"{self.name} gave {raw}, which are no finite numbers"))
                continue
            read = self.decode(raw)
            verdicts.append(Scored(read.score, read.aspects, "; ".join(self.notes(prepared))))
        return verdicts

    def _verdict(self, sample: Sample, read: Sequence[Verdict]) -> Verdict:
        if sample.form == "score":
            return read[0]
        scored = [one for one in read if isinstance(one, Scored)]
        if len(scored) < len(read):
            return next(one for one in read if not isinstance(one, Scored))
        return self.preferred(*scored)

    def preferred(self, first: Scored, second: Scored) -> Preferred:
        """Two scores as a comparison, see `preferred`."""
        return preferred(first, second, self.card.temperature)


def preferred(first: Scored, second: Scored, temperature: float) -> Preferred:
    """Two scores as a comparison: the logistic of their difference.

    ``P(first) = sigmoid((a - b) / temperature)`` of the overall values; equal values are a tie.
    Aspects likewise.
    """
    values = [one.score.value if one.score else 0.0 for one in (first, second)]
    difference = values[0] - values[1]
    told = "; ".join(dict.fromkeys(one.text for one in (first, second) if one.text))
    aspects = {
        name: _share(score.value - second.aspects[name].value, temperature)
        for name, score in first.aspects.items()
    }
    if not difference:
        return Preferred(0.0, 1.0, 0.0, aspects, told)
    share = _share(difference, temperature)
    return Preferred(share, 0.0, 1 - share, aspects, told)


def _share(difference: float, temperature: float) -> float:
    """Probability of the first; undecided only where nothing differs."""
    odds = max(-_CERTAIN, min(_CERTAIN, difference / temperature))
    share = 1 / (1 + math.exp(-abs(odds)))
    if difference:
        share = max(share, 0.5 + sys.float_info.epsilon)
    return share if difference >= 0 else 1 - share


def _alone(sample: Sample) -> list[Sample]:
    return [replace(sample, candidates=(one,)) for one in sample.candidates]


def _key(sample: Sample) -> tuple[Any, ...]:
    return sample.task, sample.prompt, sample.candidates[0], sample.criteria


def _check(sample: Sample, card: ScoreCard) -> None:
    wanted = Video if card.task is Task.VIDEO_GENERATION else Image
    if sample.task is not card.task or not isinstance(sample.candidates[0], wanted):
        raise ConfigError(
            f"{card.name} scores {card.task.value}, candidates of kind {wanted.__name__}; "
            f"given: {sample.task.value}, {type(sample.candidates[0]).__name__}"
        )
    if sample.criteria:
        raise ConfigError(
            f"{card.name} cannot be told what to look at; leave out criteria {sample.criteria!r}"
        )
