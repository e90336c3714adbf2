"""A judge of a reward server: ``reward+http://HOST:PORT/NAME``.

Files are sent as they are, pixels without loss. Imports no torch.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

import unified_reward_client as wire
from unified_reward import media
from unified_reward.backends.openai_options import check_header_value
from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import (
    ConfigError,
    DataError,
    MediaError,
    ServerError,
    UnifiedRewardError,
)
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Candidate, Form, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Scale, Scored, Unparsed, Verdict
from unified_reward.io.verdict_rows import read_verdict
from unified_reward_client import RewardClient


TOKEN_VARIABLE = "UNIFIED_REWARD_TOKEN"  # noqa: S105  its name
_EXAMPLE = "reward+http://127.0.0.1:8100/NAME"
_TIMEOUT_S = 600.0
"""For the answer to a request, with its time in the server's queue."""
_LOADING_S = 600.0
"""For a judge that the server is still loading."""
_POLL_S = 0.5
_CHECKING_THREADS = 4


class RewardServerJudge(BaseJudge):
    """A judge that a reward server has loaded."""

    window = 64

    def __init__(self, client: RewardClient, entry: Mapping[str, Any]) -> None:
        """Set up.

        Args:
            client: Client of the server; closed with the judge.
            entry: The judge's entry in the server's roster.
        """
        self.client = client
        self.name = f"{entry['name']} at {client.url}"
        self.family = str(entry.get("family") or "")
        self.order_free = entry.get("order_free") is True
        self.answers_alone = entry.get("answers_alone") is True
        self._entry = entry
        weakref.finalize(self, client.close)

    def describe(self) -> dict[str, Any]:
        """Facts about the judge as its server gives them; see `BaseJudge.describe`."""
        passing = ("name", "state", "reason")
        given = {key: value for key, value in self._entry.items() if key not in passing}
        return super().describe() | given

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Error of each sample that cannot be sent, or None; opens the media here."""
        distinct = [*dict.fromkeys(medium for sample in samples for medium in sample.media)]
        with ThreadPoolExecutor(_CHECKING_THREADS) as pool:
            errors = dict(zip(distinct, pool.map(_error_of, distinct), strict=True))
        return [next(filter(None, map(errors.get, sample.media)), None) for sample in samples]

    def ask(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Verdict]:
        """Judge every sample; see `BaseJudge.ask`. A request that is refused fails its samples."""
        verdicts: list[Verdict] = []
        for start in range(0, len(samples), self.window):
            window = samples[start : start + self.window]
            verdicts += self._ask(window, orders)
            if on_progress:
                on_progress(len(window))
        return verdicts

    def _ask(self, samples: Sequence[Sample], orders: int) -> list[Verdict]:
        items = [_item(sample) for sample in samples]
        verdicts: dict[int, Verdict] = {}
        questions: dict[Form, dict[int, wire.Item]] = {"score": {}, "compare": {}}
        for i, item in enumerate(items):
            if isinstance(item, Failed):
                verdicts[i] = item
            else:
                questions[samples[i].form][i] = item
        for form, places in questions.items():
            rewards = self._send(form, [*places.values()], orders)
            for i, reward in zip(places, rewards, strict=True):
                verdicts[i] = self._verdict(samples[i], reward)
        return [verdicts[i] for i in range(len(samples))]

    def _send(self, form: Form, items: Sequence[wire.Item], orders: int) -> list[wire.Reward]:
        name = self._entry["name"]
        try:
            return self.client.ask(form, [name], items, orders=orders)[name] if items else []
        except wire.ServerError as error:
            return [wire.Reward(None, str(error))] * len(items)

    def _verdict(self, sample: Sample, reward: wire.Reward) -> Verdict:
        """The verdict of a row; there is none where the server did not answer."""
        if not reward.row:
            return Failed.from_error(ServerError(reward.reason))
        try:
            verdict = read_verdict(reward.row)
        except DataError as error:
            return Failed(f"{self.name}: {error}")
        if isinstance(verdict, Scored) and sample.form == "score":
            return self._scaled(verdict, sample.task)
        if isinstance(verdict, Unparsed | Failed) or (
            isinstance(verdict, Preferred) and sample.form == "compare"
        ):
            return verdict
        return Failed(f"{self.name} answered a {sample.form} with {type(verdict).__name__}")

    def _scaled(self, verdict: Scored, task: Task) -> Scored:
        """The aspects on the scales of the roster; rows have none."""
        try:
            known = self._entry["tasks"][task.value]["aspects"]
            aspects = {
                name: replace(score, scale=Scale(*known[name])) if known.get(name) else score
                for name, score in verdict.aspects.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return verdict
        return replace(verdict, aspects=aspects)


def open_reward_server(reference: str, *, api_key: str | None = None) -> RewardServerJudge:
    """Open a judge of a reward server; waits at most ten minutes while it is loading.

    Args:
        reference: Such as ``reward+http://127.0.0.1:8100/NAME``; without the name the only judge.
        api_key: Token of the server; default the environment's UNIFIED_REWARD_TOKEN.

    Raises:
        ConfigError: The reference is no such URL, or the server has no such judge.
        ServerError: The server does not answer, or could not load the judge.
    """
    parts = _checked_url(reference)
    token = os.environ.get(TOKEN_VARIABLE, "") if api_key is None else api_key
    check_header_value(token.strip(), TOKEN_VARIABLE if api_key is None else "the token")
    url = f"{parts.scheme}://{parts.netloc}"
    client = RewardClient(url, token=token.strip(), timeout_s=_TIMEOUT_S)
    try:
        return RewardServerJudge(client, _ready_entry(client, unquote(parts.path)[1:]))
    except UnifiedRewardError:
        client.close()
        raise


def _checked_url(reference: str) -> SplitResult:
    try:
        parts = urlsplit(reference.removeprefix("reward+"))
        is_url = parts.hostname and (parts.port or 1) and not (parts.query or parts.fragment)
    except ValueError as error:
        raise ConfigError(f"{reference!r} is not a URL such as {_EXAMPLE}: {error}") from error
    if "@" in parts.netloc:
        # The message omits the URL: its login is a secret.
        raise ConfigError("a server's URL must not carry a login; pass the token as api_key")
    if not is_url:
        raise ConfigError(f"{reference!r} is not a URL such as {_EXAMPLE}")
    return parts


def _ready_entry(client: RewardClient, name: str) -> Mapping[str, Any]:
    """Entry of a judge in the roster, once it is loaded."""
    deadline = time.monotonic() + _LOADING_S
    while True:
        entry = _entry(client, name)
        state = entry.get("state")
        if state == "ready":
            return entry
        called = f"{entry['name']} at {client.url}"
        if state != "loading":
            raise ServerError(f"{called} could not be loaded: {entry.get('reason')}")
        if time.monotonic() > deadline:
            raise ServerError(f"{called} is still loading after {_LOADING_S:g} s")
        time.sleep(_POLL_S)


def _entry(client: RewardClient, name: str) -> Mapping[str, Any]:
    try:
        entries = {str(entry["name"]): entry for entry in client.judges()}
    except wire.ServerError as error:
        raise ServerError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{client.url} is not a reward server: {error!r:.200}") from error
    if not name and len(entries) == 1:
        return next(iter(entries.values()))
    if name not in entries:
        problem = f"there is no judge {name!r} at" if name else "name one of the judges of"
        raise ConfigError(f"{problem} {client.url}: {', '.join(entries) or 'it has none'}")
    return entries[name]


def _item(sample: Sample) -> wire.Item | Failed:
    """A sample as the client sends it, or its error; files are read by the client."""
    try:
        return wire.Item(
            _text(sample.prompt),
            [*map(_part, sample.candidates)],
            [*map(_part, sample.context)],
            sample.task.value,
            _text(sample.criteria),
        )
    except (MediaError, DataError) as error:
        return Failed.from_error(error)


def _text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"a text cannot be sent as UTF-8: {error}") from error
    return text


def _part(part: Candidate) -> wire.Image | str:
    """A candidate or a medium of the context for the client.

    Raises:
        DataError: It has several parts.
        MediaError: Pixels are no image.
    """
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, tuple):
        raise DataError("a candidate of several parts cannot be sent to a reward server")
    if isinstance(part, Image):
        if _is_file(part):
            return wire.Image(part.source)
        return wire.Image(np.asarray(media.open_image(part)), "HWC")
    if _is_file(part):
        return wire.Video(part.source)
    if isinstance(part.source, tuple) and part.source and all(map(_is_file, part.source)):
        return wire.Video([frame.source for frame in part.source], fps=part.fps)
    return wire.Video(_all_frames(part), "THWC", fps=part.fps)


def _is_file(medium: Image | Video) -> bool:
    """True for a file or its bytes, False for pixels.

    Raises:
        MediaError: There is no such file.
    """
    source = medium.source
    if isinstance(source, str | Path) and not is_file(source):
        raise MediaError(f"{source}: cannot be opened: there is no such file")
    return isinstance(source, str | Path | bytes)


def _all_frames(video: Video) -> Any:
    return media.select_frames(video, lambda n_frames, _: tuple(range(n_frames))).pixels


def _error_of(medium: Image | Video) -> Failed | None:
    try:
        if isinstance(medium, Image):
            media.open_image(medium)
        else:
            media.sample_frames(medium, 1)
    except MediaError as error:
        return Failed.from_error(error)
    return None
