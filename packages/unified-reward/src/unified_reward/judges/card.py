"""The card of a judge, ``unified_reward.json``: prompts, frames and calibration of a checkpoint.

Knows tasks and media; no model.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unified_reward import media, prompts
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.probability import MAX_TIE_MARGIN, call_ties
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example, FrameRule, Image, Sample, Video
from unified_reward.core.verdicts import Failed, Preferred, Verdict
from unified_reward.io.atomic import write_bytes
from unified_reward.io.config import build_config
from unified_reward.io.text import read_json
from unified_reward.judges.model_judge import DecodedMedia, ModelJudge, Replies, decoded


CARD = "unified_reward.json"
PUBLISHED_MAX_PIXELS = 262_144
"""512 x 512: the largest image in the training of the published Qwen judges, which have no card.

LLaVA judges do not count pixels, so that it changes nothing for them.
"""


@dataclass(frozen=True)
class Calibration:
    """Temperatures and a margin for ties, fitted on items the judge was not trained on.

    Log-probabilities, or logits, are divided by the temperatures before they are read: Guo et al.
    2017, arXiv:1706.04599, section 4.2. The most probable outcome stays the same, except that the
    ties of a scalar judge, whose own margin is divided too, grow rarer.
    """

    compare: float = 1.0
    score: float = 1.0
    data: str = ""
    """Source of the examples they are fitted on."""
    n: int = 0
    """Number of those examples."""
    tie_margin: float = 0.0
    """Lead ``|2 p - 1|`` of the calibrated probability ``p`` that the first is better, up to which
    a comparison is a tie too, in [0, 0.5]: see `core.probability.call_ties`. 0 for none but the
    judge's own ties."""

    def __post_init__(self) -> None:
        if not 0 <= self.tie_margin <= MAX_TIE_MARGIN:
            raise ConfigError(f"tie_margin is in [0, {MAX_TIE_MARGIN}], not {self.tie_margin}")
        if not (0 < self.compare < math.inf and 0 < self.score < math.inf):
            raise ConfigError(
                f"temperatures are above 0 and finite, not {self.compare} for comparisons "
                f"and {self.score} for scores"
            )


@dataclass(frozen=True)
class Head:
    """Values that a scalar judge computes from the last hidden state."""

    aspects: tuple[str, ...] = ()
    """Names of the values beside the overall one."""
    uncertain: bool = False
    """True if every value has a standard deviation."""
    tie_margin: float | None = None
    """Margin of Bradley-Terry with ties, in units of the values, >= 0; None for no ties."""

    def __post_init__(self) -> None:
        if self.tie_margin is not None and not 0 <= self.tie_margin < math.inf:
            raise ConfigError(f"a tie margin is at least 0, not {self.tie_margin}")


@dataclass(frozen=True)
class Card:
    """Prompts, media limits and calibration of a checkpoint: its ``unified_reward.json``."""

    family: str
    frames: int | None = None
    """Frames of a video; None for the family's number."""
    frame_rule: FrameRule | None = None
    max_pixels: int | None = None
    """Largest image the model gets, in pixels; None for the processor's limit."""
    base: str = ""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    head: Head | None = None
    """Value head of a scalar judge; None for a generative judge."""
    calibration: Calibration | None = None
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        for name in ("frames", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is at least 1, not {value}")

    @classmethod
    def read(cls, folder: Path) -> Card | None:
        """The card in a folder; None if there is none.

        Raises:
            ConfigError: The file is not a card.
        """
        file = folder / CARD
        if not file.exists():
            return None
        try:
            return build_config(cls, read_json(file), CARD)
        except (DataError, ConfigError) as error:
            raise ConfigError(f"{file} is not a judge's card: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the card into a checkpoint's folder; head and calibration only if they are set."""
        row = asdict(self)
        for name in ("head", "calibration"):
            if row[name] is None:
                del row[name]
        text = json.dumps(row, indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(folder / CARD, f"{text}\n".encode())


def build_request(sample: Sample, card: Card, opened: DecodedMedia) -> Request:
    """Build the user turn for a sample, in training as in judging.

    Args:
        sample: The question.
        card: Family and frames.
        opened: Media that are decoded already; those of this sample are added, so that a file is
            decoded once however many questions are about it.

    Raises:
        MediaError: An image or video cannot be opened.
        ConfigError: The family has no template for this task and form, or one that asks several
            questions.
    """
    template = prompts.template(card.family, sample.task, sample.form)
    decode = partial(_decode_medium, card=card, family=template.family)
    return template.request(sample, lambda medium: decoded(medium, opened, decode))


def build_requests(sample: Sample, card: Card, opened: DecodedMedia) -> tuple[Request, ...]:
    """Build the user turns for a sample, one for each question of its template.

    See `build_request`, which is for templates with a single question.
    """
    template = prompts.template(card.family, sample.task, sample.form)
    decode = partial(_decode_medium, card=card, family=template.family)
    return template.requests(sample, lambda medium: decoded(medium, opened, decode))


def _decode_medium(medium: Image | Video, card: Card, family: prompts.Family) -> Sequence[Any]:
    if isinstance(medium, Image):
        return [media.open_image(medium)]
    frames, rule = card.frames or family.frames, card.frame_rule or family.frame_rule
    return media.sample_frames(medium, frames, rule).images()


def build_published(record: Example, card: Card) -> tuple[Request, str]:
    """Build the user turn and the answer of a published conversation, verbatim.

    Frames that are published as images go to their ``<image>`` marks, or all to the one mark of
    their video; a video file is sampled as the card says.

    Raises:
        DataError: The turns are not one question and one answer, or its marks do not fit its media.
        MediaError: An image or video cannot be opened.
    """
    turns = [(turn.get("from"), str(turn.get("value"))) for turn in record.messages]
    if [role for role, _ in turns] != ["human", "gpt"]:
        raise DataError(
            f"record {record.id!r} has turns of {', '.join(str(role) for role, _ in turns)}; it "
            "must have one of human and one of gpt"
        )
    (_, question), (_, answer) = turns
    family = prompts.family(card.family)
    images: list[Sequence[Any]] = []
    for medium in record.media:
        frames = medium.source if isinstance(medium.source, tuple) else (medium,)
        images.append([part for frame in frames for part in _decode_medium(frame, card, family)])
    first, *texts = re.split("<image>|<video>", question)
    single = [[image] for frames in images for image in frames]
    everything = [[image for frames in images for image in frames]]
    at_marks = {len(single): single, len(images): images, 1: everything}.get(len(texts))
    if at_marks is None:
        raise DataError(
            f"record {record.id!r} has {len(texts)} media marks for {len(single)} images"
        )
    parts: list[Any] = [first]
    for at_mark, text in zip(at_marks, texts, strict=True):
        parts += [*at_mark, text]
    return Request(tuple(part for part in parts if part != "")), answer


class CardedJudge(ModelJudge):
    """A judge whose card defines its prompts and its calibration."""

    card: Card

    def describe(self) -> dict[str, Any]:
        """Facts about the judge, its head and its model; see `BaseJudge.describe`."""
        head = "generative" if self.card.head is None else "scalar"
        return super().describe() | {"kind": head, "head": head}

    def decode(
        self,
        samples: Sequence[Sample],
        replies: Sequence[Replies],
        calibration: Calibration | None = None,
    ) -> list[Verdict]:
        """Verdicts from the replies that ``query`` gave for the same samples.

        Args:
            samples: The samples.
            replies: One entry per sample.
            calibration: Temperatures and margin for ties; default those of the card.
        """
        calibration = calibration or self.card.calibration or Calibration()
        verdicts = [
            reply
            if isinstance(reply, Failed)
            else self.verdict_or_failed(partial(self._verdict, sample, reply, calibration))
            for sample, reply in zip(samples, replies, strict=True)
        ]
        margin = calibration.tie_margin
        return [call_ties(one, margin) if isinstance(one, Preferred) else one for one in verdicts]

    def _decode_medium(self, medium: Image | Video) -> Sequence[Any]:
        return _decode_medium(medium, self.card, prompts.family(self.card.family))

    def _requests(self, sample: Sample, orders: int, opened: DecodedMedia) -> list[Request]:
        return [
            build_request(question, self.card, opened)
            for question in self._questions(sample, orders)
        ]

    @abstractmethod
    def _questions(self, sample: Sample, orders: int) -> list[Sample]:
        """Samples that are asked for this one, such as both orders."""

    @abstractmethod
    def _verdict(
        self, sample: Sample, replies: Sequence[Any], calibration: Calibration
    ) -> Verdict: ...
