"""Base class of published point scorers, with the verbs of a judge.

Each candidate is prepared without weights, scored independently, and decoded into aspects and an
overall value; a comparison follows from two values. Knows no system in particular.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unified_reward.backends.batching import bisect_failures
from unified_reward.checkpoints.tensor_keys import MappedTensor, State, weight_files
from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import ConfigError, DataError, MediaError, one_line
from unified_reward.core.prefetch import prefetch
from unified_reward.core.probability import compare_scored
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Unparsed, Verdict
from unified_reward.io.fingerprints import folder_revision
from unified_reward.scorers.card import Fact, ScoreCard, describe_card


_Key = tuple[Task, str, Candidate, tuple[Image | Video, ...], str]
_HALF = re.compile("[\ud800-\udfff]")
TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
"""Files of tokenizers; one of them is enough."""


@dataclass(frozen=True)
class Prepared:
    """Input of a model for one candidate, except that its text is not tokenised yet."""

    text: str
    """The caption, or the whole prompt around it."""
    pixels: Tensor
    """float32; (3, H, W) for an image, (n, 3, H, W) for frames, or (patches, values) for
    Qwen-VL."""
    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    """True for pixels that are not padding, (n, H, W)."""
    grid: tuple[int, int, int] = (0, 0, 0)
    """Number of patches over time, height and width."""
    notes: tuple[str, ...] = ()
    """Remarks beside the score, such as that frames were repeated."""


class Scorer(BaseJudge):
    """Base class of published point scorers; a second order changes nothing and is not asked."""

    card: ClassVar[ScoreCard]
    weights: ClassVar[tuple[str, ...]]
    """Glob patterns of its weight files; the first that matches is used."""
    needed: ClassVar[Mapping[str, tuple[str, ...]]] = {"tokenizer": TOKENIZER}
    """Other files by their purpose: one file of each is enough."""
    ignored: ClassVar[Mapping[str, str]] = {}
    """Tensors left out on purpose: regular expressions of their names, and the reason."""
    default_dtype: ClassVar[str | None] = None
    """Dtype on every device; None for float32 on a CPU and bfloat16 elsewhere."""
    family = ""
    order_free = True

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        self.name = f"{self.card.name}:{folder}"
        self.module: Any = module.eval().requires_grad_(requires_grad=False)
        self.folder = folder
        self.batch_size = batch_size
        self._known: dict[_Key, Verdict] | None = None
        self._prepared: dict[_Key, Prepared | Failed] | None = None

    def describe(self) -> dict[str, Any]:
        """Facts of the card and of the weights; see `BaseJudge.describe`."""
        return {
            **super().describe(),
            **describe_card(self.card, dict.fromkeys(self.card.aspects, self.card.scale)),
            "kind": "scorer",
            "revision": folder_revision(self.folder),
            "architecture": self.card.system,
        }

    def networks(self) -> list[Any]:
        """See `BaseJudge.networks`."""
        return [self.module]

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """Weight files of this scorer in a folder.

        Raises:
            ModelError: An index names shards that are not there.
        """
        return weight_files(folder, cls.weights)

    @classmethod
    @abstractmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """An empty module that the tensors fit into.

        Raises:
            ModelError: The tensors are not those of this scorer.
        """

    @classmethod
    @abstractmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The tensors of the files under the names of the module."""

    @classmethod
    def examine(cls, module: nn.Module, folder: Path) -> None:
        """Check the files beside the weights against an empty module, as loading does.

        Raises:
            ModelError: They are not those of these weights.
        """

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Open questions that the files of a folder answer, for ``scorers check``.

        Reads no weights, and answers for missing or broken files too.
        """
        return []

    @classmethod
    @abstractmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Input of the model for a sample with one candidate; needs no weights.

        Raises:
            MediaError: The candidate cannot be opened.
            ConfigError: The prompt of this scorer is not imported.
            DataError: The caption contains a token of pixels.
        """

    @abstractmethod
    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Outputs of the model, shape (B, outputs), float32."""

    def decode(self, raw: Sequence[float]) -> Scored | Unparsed:
        """Scores from one row of outputs."""
        return Scored(Score(raw[0], self.card.scale))

    def notes(self, prepared: Prepared) -> tuple[str, ...]:
        """Remarks beside the score."""
        return prepared.notes

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.module.parameters()).dtype

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """Keep scores until the block ends: a candidate is opened and scored once."""
        self._known, self._prepared = {}, {}
        try:
            yield
        finally:
            self._known, self._prepared = None, None

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Errors of samples that cannot be scored, None for the others; opens their media."""
        failures: dict[_Key, Failed] = {}
        wanted = {_key(part): part for sample in samples for part in sample.split()}
        left = [key for key in wanted if not self._known or key not in self._known]
        for keys, prepared in self._windows(left, wanted):
            for key in keys:
                result = prepared[key]
                if isinstance(result, Failed):
                    failures[key] = result
        return [
            next((failures[k] for part in sample.split() if (k := _key(part)) in failures), None)
            for sample in samples
        ]

    def ask(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Verdict]:
        """Judge every sample; see ``BaseJudge.ask``. A repeated candidate is scored once.

        Its window is ``batch_size`` candidates.
        """
        known = {} if self._known is None else self._known
        wanted = {_key(part): part for sample in samples for part in sample.split()}
        left = [key for key in wanted if key not in known]
        progress = _Answered(samples, on_progress)
        for keys, prepared in self._windows(left, wanted):
            verdicts = self._score([prepared[key] for key in keys])
            known.update(zip(keys, verdicts, strict=True))
            if self._prepared is not None:
                for key in keys:
                    self._prepared.pop(key, None)
            progress.update(known)
        progress.update(known)
        parts = [[known[_key(part)] for part in sample.split()] for sample in samples]
        return [
            self.verdict_or_failed(partial(self._verdict, sample, of_sample))
            for sample, of_sample in zip(samples, parts, strict=True)
        ]

    def _windows(
        self, keys: Sequence[_Key], wanted: Mapping[_Key, Sample]
    ) -> Iterator[tuple[Sequence[_Key], Mapping[_Key, Prepared | Failed]]]:
        """A batch of candidates at a time, prepared in threads ahead of time."""
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        prepared = prefetch(batches, lambda key: self._prepare(wanted[key]), self._prepared)
        return zip(batches, prepared, strict=True)

    def _score(self, candidates: Sequence[Prepared | Failed]) -> list[Verdict]:
        ready = [one for one in candidates if not isinstance(one, Failed)]
        verdicts = iter(bisect_failures(ready, self._forward_batch, self.name) if ready else [])
        return [one if isinstance(one, Failed) else next(verdicts) for one in candidates]

    def _prepare(self, sample: Sample) -> Prepared | Failed:
        try:
            _check(sample, self.card)
            return self.prepare(sample)
        except (MediaError, ConfigError, DataError) as error:
            return Failed.from_error(error)
        except ValueError as error:  # of a processor, about a size that it does not take
            return Failed(f"{self.name} cannot prepare it: {one_line(error)}")

    @torch.inference_mode()
    def _forward_batch(self, batch: list[Prepared]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for raw, prepared in zip(self.forward(batch).tolist(), batch, strict=True):
            if not all(map(math.isfinite, raw)):
                reason = f"{self.name} gave {raw}, which are not finite numbers; try another dtype"
                verdicts.append(Failed(reason))
                continue
            verdict = self.decode(raw)
            if isinstance(verdict, Scored):
                notes = "; ".join(filter(None, (verdict.text, *self.notes(prepared))))
                verdict = Scored(verdict.score, verdict.aspects, notes)
            verdicts.append(verdict)
        return verdicts

    def _verdict(self, sample: Sample, parts: Sequence[Verdict]) -> Verdict:
        if sample.form == "score":
            return parts[0]
        scored = [verdict for verdict in parts if isinstance(verdict, Scored)]
        if len(scored) < len(parts):
            return next(verdict for verdict in parts if not isinstance(verdict, Scored))
        return self.compare_scored(*scored)

    def compare_scored(self, first: Scored, second: Scored) -> Preferred:
        """Two scores as a comparison, see `core.probability.compare_scored`."""
        return compare_scored(first, second, self.card.temperature)


class _Answered:
    """Counts the samples, in order, whose candidates are all scored, and reports new ones."""

    def __init__(self, samples: Sequence[Sample], on_progress: Progress | None) -> None:
        self._samples = samples
        self._on_progress = on_progress
        self._done = 0

    def update(self, known: Mapping[_Key, Verdict]) -> None:
        if self._on_progress is None:
            return
        start = self._done
        while self._done < len(self._samples) and all(
            _key(part) in known for part in self._samples[self._done].split()
        ):
            self._done += 1
        if self._done > start:
            self._on_progress(self._done - start)


def _key(sample: Sample) -> _Key:
    return sample.task, sample.prompt, sample.candidates[0], sample.context, sample.criteria


_CANDIDATES = {
    Task.IMAGE_GENERATION: Image,
    Task.IMAGE_EDITING: Image,
    Task.VIDEO_GENERATION: Video,
    Task.IMAGE_UNDERSTANDING: str,
    Task.VIDEO_UNDERSTANDING: str,
}


def _check(sample: Sample, card: ScoreCard) -> None:
    kind = _CANDIDATES[sample.task]
    if sample.task not in card.tasks or not isinstance(sample.candidates[0], kind):
        scores = " and ".join(task.value for task in card.tasks)
        kinds = {_CANDIDATES[task].__name__ for task in card.tasks}
        raise ConfigError(
            f"{card.name} scores {scores}, candidates of kind {' or '.join(sorted(kinds))}; "
            f"given: {sample.task.value}, {type(sample.candidates[0]).__name__}"
        )
    if sample.criteria:
        raise ConfigError(f"{card.name} takes no criteria; leave out {sample.criteria!r}")
    for text in (sample.prompt, sample.candidates[0]):
        if isinstance(text, str) and (half := _HALF.search(text)):
            raise DataError(
                f"a text holds {half[0]!r}, half a character, for which there is no token"
            )
