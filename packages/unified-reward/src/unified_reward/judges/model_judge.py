"""Base class of judges that put questions to a model.

Samples become requests and replies become verdicts, a window of samples at a time, so that memory
does not grow with their number. Knows media and requests; neither families nor models.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import PIL.Image

from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import ConfigError, DataError, MediaError, UnifiedRewardError
from unified_reward.core.prefetch import prefetch
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Sample, Video
from unified_reward.core.verdicts import Failed, Verdict
from unified_reward.io.fingerprints import folder_revision


DecodedMedia = dict[Image | Video, Sequence[Any] | UnifiedRewardError]
"""Images of each medium, or the error if it cannot be opened."""
Replies = Sequence[Any] | Failed
"""Replies of a model to the requests of one sample, or the error of a sample without requests."""
_SHARING = 8
"""Times as many samples as usual in a window of samples that share media."""
_REFUSALS = (MediaError, ConfigError, DataError)


def windows_of(samples: Sequence[Sample], most: int) -> list[list[int]]:
    """Indices of samples in windows; those that share media, if only through others, stay together.

    A window has at most ``most`` samples; or more that share media, at most twice as many media as
    ``most`` and `_SHARING` times as many samples.
    """
    parents: dict[Image | Video, Image | Video] = {}

    def root(medium: Image | Video) -> Image | Video:
        while parents[medium] is not medium:
            parents[medium] = medium = parents[parents[medium]]
        return medium

    for sample in samples:
        for medium in sample.media:
            parents.setdefault(medium, medium)
            parents[root(medium)] = root(sample.media[0])
    groups: dict[Image | Video | int, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(root(sample.media[0]) if sample.media else i, []).append(i)
    windows: list[list[int]] = []
    for group in groups.values():
        for part in _parts(group, samples, most):
            if windows and len(windows[-1]) + len(part) <= most:
                windows[-1] += part
            else:
                windows.append(part)
    return windows


def _parts(group: Sequence[int], samples: Sequence[Sample], most: int) -> Iterator[list[int]]:
    """Samples that share media, in parts of bounded size."""
    part: list[int] = []
    media: set[Image | Video] = set()
    for i in group:
        more = media | {*samples[i].media}
        if part and (len(part) == _SHARING * most or (len(part) >= most and len(more) > 2 * most)):
            yield part
            part, more = [], {*samples[i].media}
        part.append(i)
        media = more
    if part:
        yield part


def placeholder_images(media: Iterable[Image | Video]) -> DecodedMedia:
    """An image of 4 x 8 pixels for each medium, derived from a hash of its source."""
    digests = {medium: hashlib.sha256(repr(medium.source).encode()).digest() for medium in media}
    return {
        medium: [PIL.Image.frombytes("L", (4, 8), digest)] for medium, digest in digests.items()
    }


def decoded(
    medium: Image | Video, opened: DecodedMedia, decode: Callable[[Image | Video], Sequence[Any]]
) -> Sequence[Any]:
    """Images of a medium, decoded unless ``opened`` has them.

    Raises:
        UnifiedRewardError: The error that opening the medium raised.
    """
    if medium not in opened:
        opened[medium] = _images_or_error(medium, decode)
    images = opened[medium]
    if isinstance(images, UnifiedRewardError):
        raise images
    return images


def _images_or_error(
    medium: Image | Video, decode: Callable[[Image | Video], Sequence[Any]]
) -> Sequence[Any] | UnifiedRewardError:
    try:
        return decode(medium)
    except _REFUSALS as error:
        return error.with_traceback(None)


class ModelJudge(BaseJudge):
    """A judge that turns samples into requests to a model, and replies into verdicts.

    ``query`` is apart from ``decode``, so that replies can be decoded at several temperatures.
    """

    is_blind: bool = False
    """True for a model that does not look: no file is opened, each medium is a placeholder."""
    model: Any
    folder: Path | None = None
    """Files of the model; None where it is not a local checkpoint."""
    _cache: DecodedMedia | None = None

    def describe(self) -> dict[str, Any]:
        """Facts about the judge and its model; see `BaseJudge.describe`."""
        facts = super().describe()
        if self.folder:
            facts["revision"] = folder_revision(self.folder)
        if describe_model := getattr(self.model, "describe", None):
            facts["model"] = describe_model()
            facts["architecture"] = facts["model"].get("architecture")
        return facts

    def networks(self) -> list[Any]:
        """Networks of a local model; see `BaseJudge.networks`."""
        return [*getattr(self.model, "networks", ())]

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """Keep decoded media in memory until the block ends; a local model encodes each once."""
        self._cache = {}
        try:
            yield
        finally:
            self._cache = None

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Error of each sample that cannot be asked, or None; opens the media."""
        failures: list[Failed | None] = [None] * len(samples)
        for window, opened in self._windows(samples):
            for i in window:
                plan = self._requests_or_failure(samples[i], 1, opened)
                failures[i] = plan if isinstance(plan, Failed) else None
        return failures

    def ask(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Verdict]:
        """Judge every sample; see ``BaseJudge.ask``."""
        return self.decode(samples, self.query(samples, orders=orders, on_progress=on_progress))

    def query(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Replies]:
        """Replies of the model to each sample, for ``decode``; arguments as of ``ask``."""
        replies: list[Replies] = [Failed("not asked")] * len(samples)
        for window, opened in self._windows(samples):
            found = self._query([samples[i] for i in window], orders, opened)
            for i, reply in zip(window, found, strict=True):
                replies[i] = reply
            if on_progress:
                on_progress(len(window))
        return replies

    @abstractmethod
    def decode(self, samples: Sequence[Sample], replies: Sequence[Replies]) -> list[Verdict]:
        """Verdicts from the replies that ``query`` gave for the same samples."""

    def _windows(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], DecodedMedia]]:
        """Indices of samples in windows, with their media, opened in threads ahead of time."""
        windows = windows_of(samples, self.window)
        media = [dict.fromkeys(m for i in part for m in samples[i].media) for part in windows]
        if self.is_blind:
            yield from zip(windows, map(placeholder_images, media), strict=True)
            return
        prepare = partial(_images_or_error, decode=self._decode_medium)
        yield from zip(windows, prefetch(media, prepare, self._cache), strict=True)

    def _query(self, samples: Sequence[Sample], orders: int, opened: DecodedMedia) -> list[Replies]:
        plans = [self._requests_or_failure(sample, orders, opened) for sample in samples]
        requests = [one for plan in plans if not isinstance(plan, Failed) for one in plan]
        replies = iter(self._replies(requests))
        return [
            plan if isinstance(plan, Failed) else [next(replies) for _ in plan] for plan in plans
        ]

    def _requests_or_failure(
        self, sample: Sample, orders: int, opened: DecodedMedia
    ) -> list[Request] | Failed:
        try:
            return self._requests(sample, orders, opened)
        except _REFUSALS as error:
            return Failed.from_error(error)

    @abstractmethod
    def _decode_medium(self, medium: Image | Video) -> Sequence[Any]:
        """Images of a medium as the model gets them."""

    @abstractmethod
    def _requests(self, sample: Sample, orders: int, opened: DecodedMedia) -> list[Request]:
        """Requests that a sample becomes."""

    @abstractmethod
    def _replies(self, requests: Sequence[Request]) -> Sequence[Any]:
        """One reply per request, in order."""
