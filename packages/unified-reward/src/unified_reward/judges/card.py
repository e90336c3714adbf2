"""The card of a judge: how a checkpoint wants to be asked and read; and judging by a card.

Knows tasks and media; no model.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import PIL.Image
from pydantic import ConfigDict, TypeAdapter, ValidationError

from unified_reward import media, prompts
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example, FrameRule, Image, Sample, Video
from unified_reward.core.verdicts import Failed, Verdict


CARD = "unified_reward.json"


@dataclass(frozen=True)
class Calibration:
    """Temperatures fitted on items the judge was not trained on.

    Log-probabilities, or logits, are divided by them before they are read: Guo et al. 2017,
    arXiv:1706.04599, section 4.2. The most probable outcome stays the same, except that the ties of
    a scalar judge, whose margin is divided too, grow rarer.
    """

    compare: float = 1.0
    score: float = 1.0
    data: str = ""
    """Source of the examples they are fitted on."""
    n: int = 0
    """Number of those examples."""

    def __post_init__(self) -> None:
        if not (self.compare > 0 and self.score > 0):
            raise ConfigError(
                f"temperatures are above 0, not {self.compare} for comparisons "
                f"and {self.score} for scores"
            )


@dataclass(frozen=True)
class Head:
    """What a scalar judge reads from the last hidden state, instead of speaking."""

    aspects: tuple[str, ...] = ()
    """Names of values beside the overall one."""
    uncertain: bool = False
    """Every value has a standard deviation."""
    tie_margin: float | None = None
    """Of Bradley-Terry with ties, on the axis of the values, >= 0; None knows no ties."""

    def __post_init__(self) -> None:
        if self.tie_margin is not None and not self.tie_margin >= 0:
            raise ConfigError(f"a tie margin is at least 0, not {self.tie_margin}")


@dataclass(frozen=True)
class Card:
    """How a checkpoint wants to be asked: what stands in ``unified_reward.json`` beside it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    family: str
    frames: int | None = None
    """Frames of a video; None for the family's own number."""
    frame_rule: FrameRule | None = None
    max_pixels: int | None = None
    """Largest picture shown, in pixels; None for the processor's own limit."""
    base: str = ""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    head: Head | None = None
    """Of a scalar judge; None where the judge says its verdict."""
    calibration: Calibration | None = None
    schema: int = 1

    @classmethod
    def read(cls, folder: Path) -> Card | None:
        """The card in a folder; None where there is none.

        Raises:
            ConfigError: It is not a card.
        """
        file = folder / CARD
        if not file.exists():
            return None
        try:
            return TypeAdapter(cls).validate_json(file.read_bytes())
        except ValidationError as error:
            told = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
            raise ConfigError(f"{file} is not a judge's card: {'; '.join(told)}") from error

    def write(self, folder: Path) -> None:
        """Write the card into a checkpoint's folder; head and calibration only where there are."""
        row = asdict(self)
        for name in ("head", "calibration"):
            if row[name] is None:
                del row[name]
        text = json.dumps(row, indent=2, ensure_ascii=False)
        (folder / CARD).write_text(text + "\n", "utf-8")


DecodedMedia = dict[Image | Video, Sequence[Any]]
"""Media already decoded, as pictures."""


def build_request(sample: Sample, card: Card, opened: DecodedMedia) -> Request:
    """The user turn in which a judge with this card is asked a sample, in training as in judging.

    Args:
        sample: The question.
        card: Family and frames.
        opened: What is decoded already; what this sample needs is added, so that a file is
            decoded once however often it is asked about.

    Raises:
        MediaError: A picture or clip cannot be opened.
        ConfigError: The family does not ask this.
    """
    template = prompts.template(card.family, sample.task, sample.form)

    def pictures(medium: Image | Video) -> Sequence[Any]:
        if medium not in opened:
            opened[medium] = _pictures(medium, card, template.family)
        return opened[medium]

    return template.request(sample, pictures)


def _pictures(medium: Image | Video, card: Card, family: prompts.Family) -> Sequence[Any]:
    if isinstance(medium, Image):
        return [media.open_image(medium)]
    frames, rule = card.frames or family.frames, card.frame_rule or family.frame_rule
    return media.sample_frames(medium, frames, rule).images()


def build_published(record: Example, card: Card) -> tuple[Request, str]:
    """The user turn and the answer of a published conversation, to the letter.

    Frames that are published as pictures are all shown, each at its mark, or at one mark where
    there is one for the whole clip; of a video file the card's number is sampled.

    Raises:
        DataError: The turns are not one question and one answer, or its marks do not fit its media.
        MediaError: A picture or clip cannot be opened.
    """
    spoken = [(one.get("from"), str(one.get("value"))) for one in record.messages]
    if [who for who, _ in spoken] != ["human", "gpt"]:
        raise DataError(
            f"record {record.id!r} has turns of {', '.join(str(who) for who, _ in spoken)}; a "
            "human and a gpt turn are due"
        )
    (_, question), (_, answer) = spoken
    family = prompts.family(card.family)
    shown: list[Sequence[Any]] = []
    for medium in record.media:
        frames = medium.source if isinstance(medium.source, tuple) else (medium,)
        shown.append([one for frame in frames for one in _pictures(frame, card, family)])
    first, *texts = re.split("<image>|<video>", question)
    flat = [[one] for each in shown for one in each]
    at_marks = {len(flat): flat, len(shown): shown, 1: [[one[0] for one in flat]]}.get(len(texts))
    if at_marks is None:
        raise DataError(
            f"record {record.id!r} has {len(texts)} marks of media for {len(flat)} pictures"
        )
    parts: list[Any] = [first]
    for pictures, text in zip(at_marks, texts, strict=True):
        parts += [*pictures, text]
    return Request(tuple(part for part in parts if part != "")), answer


class PlaceholderImages(dict[Image | Video, Sequence[Any]]):
    """Every medium as a picture of 4 x 8 pixels that its name makes."""

    def __contains__(self, medium: object) -> bool:
        return True

    def __missing__(self, medium: Image | Video) -> Sequence[Any]:
        name = hashlib.sha256(repr(medium.source).encode()).digest()
        return [PIL.Image.frombytes("L", (4, 8), name)]


Replies = Sequence[Any] | Failed
"""What a model replied to the questions made of one sample, or why they could not be asked."""


class CardedJudge(BaseJudge):
    """A judge whose checkpoint has a card: samples become questions, replies become verdicts.

    Hearing is apart from reading, so that replies heard once can be read at any temperature.
    """

    card: Card
    is_blind: bool = False
    """It looks at nothing, so nothing is opened: each medium is shown as a mark of its own."""
    _kept: DecodedMedia | None = None

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """Files opened within are decoded, and by a local model encoded, once."""
        self._kept = self._nothing_opened()
        try:
            yield
        finally:
            self._kept = None

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Why each sample cannot be asked; opens what they show."""
        opened = self._nothing_opened() if self._kept is None else self._kept
        return [self._refusal(sample, opened) for sample in samples]

    def _refusal(self, sample: Sample, opened: DecodedMedia) -> Failed | None:
        try:
            build_request(sample, self.card, opened)
        except (MediaError, ConfigError, DataError) as error:
            return Failed(str(error), error)
        return None

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Judge every sample; see ``BaseJudge.ask``."""
        heard = self.query(samples, orders=orders)
        return self.read(samples, heard, self.card.calibration or Calibration())

    def query(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Replies]:
        """Put all questions to the model at once; a sample that cannot be asked fails alone."""
        opened = self._nothing_opened() if self._kept is None else self._kept
        requests: list[Request] = []
        plans: list[range | Failed] = []
        for sample in samples:
            try:
                asked = [
                    build_request(one, self.card, opened) for one in self._questions(sample, orders)
                ]
            except (MediaError, ConfigError, DataError) as error:
                plans.append(Failed(str(error), error))
                continue
            plans.append(range(len(requests), len(requests) + len(asked)))
            requests += asked
        replies = self._replies(requests)
        return [plan if isinstance(plan, Failed) else [replies[i] for i in plan] for plan in plans]

    def read(
        self, samples: Sequence[Sample], heard: Sequence[Replies], calibration: Calibration
    ) -> list[Verdict]:
        """Verdicts from what ``query`` gave for the same samples."""
        return [
            replies if isinstance(replies, Failed) else self._verdict(sample, replies, calibration)
            for sample, replies in zip(samples, heard, strict=True)
        ]

    def _nothing_opened(self) -> DecodedMedia:
        return PlaceholderImages() if self.is_blind else {}

    @abstractmethod
    def _questions(self, sample: Sample, orders: int) -> list[Sample]: ...

    @abstractmethod
    def _replies(self, requests: Sequence[Request]) -> Sequence[Any]: ...

    @abstractmethod
    def _verdict(
        self, sample: Sample, replies: Sequence[Any], calibration: Calibration
    ) -> Verdict: ...
