"""Client of the reward server, weighted sets of rewards, and adapters for RL trainers.

Python >= 3.9 and numpy; Pillow only where PIL images or JPEG are sent. One file, which may be
copied into a trainer. A reward that failed is ``None`` with its reason beside, never a number.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import logging
import math
import os
import socket
import struct
import threading
import time
import weakref
import zlib
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np


__version__ = "0.2.0"
log = logging.getLogger("unified_reward_client")


class RewardError(RuntimeError):
    """A reward is missing where the failure policy is ``raise``."""


class ServerError(RewardError):
    """The server refused a request (``status``), or gave no readable answer (None)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class MediaError(ValueError):
    """An image or a video that cannot be sent: its item fails, the others are scored."""


# ---- Media: images and videos as the server reads them


@dataclass(frozen=True)
class Image:
    """A path, encoded bytes, a PIL image, or an array or tensor in uint8 or float in [0, 1]."""

    source: Any
    layout: str | None = None
    """``HWC`` or ``CHW`` (of a video ``THWC`` or ``TCHW``); needed where a shape fits both."""


@dataclass(frozen=True)
class Video(Image):
    """A path or bytes of MP4, a list of frames, or an array or tensor."""

    fps: float | None = None


@dataclass(frozen=True)
class Item:
    """A question to a judge.

    Candidates and context are `Image`, `Video` or text; a PIL image, a `Path`, bytes or an array of
    three axes is taken as an image, a list or an array of four axes as a video; a str is text.
    """

    prompt: str
    candidates: Sequence[Any]
    context: Sequence[Any] = ()
    """Source of an edit; image or video that an answer is about."""
    task: str | None = None
    """Default: from the kinds of candidates and context."""
    criteria: str = ""
    id: str = ""


def to_array(source: Any) -> np.ndarray:
    """Array of a PIL image, a numpy array or a torch tensor (of any device, bfloat16 too)."""
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = (source.float() if "bfloat16" in str(source.dtype) else source).numpy()
    elif _is_pil(source):
        source = np.asarray(_load(source).convert("RGB"))
    if not isinstance(source, np.ndarray):
        raise TypeError(f"an image or a frame cannot be a {type(source).__name__}: {source!r:.80}")
    return source


def to_pixels(source: Any, layout: str | None, layouts: tuple[str, str]) -> np.ndarray:
    """Pixels in uint8, channels last, of an array in one of two layouts (channels last, first).

    Raises:
        ValueError: The layout is ambiguous or wrong, or the values are out of range.
        MediaError: The array holds NaN.
    """
    array = to_array(source)
    axes = {name: dict(zip(name, array.shape)) for name in layouts if array.ndim == len(name)}
    fits = [name for name, sizes in axes.items() if sizes["C"] == 3 and layout in (None, name)]
    if len(fits) != 1 or 0 in array.shape:
        other = f"is not RGB in {layout or ' or '.join(layouts)}"
        problem = f"fits {' and '.join(fits)}; name its layout" if len(fits) > 1 else other
        raise ValueError(f"an array of shape {array.shape} {problem}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if math.isnan(low):
            raise MediaError("the pixels hold NaN")
        if low < -0.01 or high > 1.01:
            raise ValueError(f"floating-point pixels are in [0, 1], not {low:g} to {high:g}")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"pixels are uint8 or floating point in [0, 1], not {array.dtype}")
    return array if fits[0] == layouts[0] else np.moveaxis(array, -3, -1)


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG of HWC pixels in uint8, fastest compression."""
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, -1)
    rows = np.full((height, flat.shape[1] + 1), 2, np.uint8)  # filter 2: less the row above
    rows[0, 1:], rows[1:, 1:] = flat[0], flat[1:] - flat[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def as_medium(source: Any, layout: str | None = None, fps: float | None = None) -> Image:
    """A video of a list of frames or an array of four axes, else an image."""
    is_video = isinstance(source, (list, tuple)) or getattr(source, "ndim", 3) == 4
    return Video(source, layout, fps) if is_video else Image(source, layout)


def encode_medium(medium: Any, image_format: str) -> dict[str, Any]:
    """An image, a video or a text as JSON."""
    if isinstance(medium, str):
        return {"text": medium}
    medium = medium if isinstance(medium, Image) else as_medium(medium)
    source, is_video = medium.source, isinstance(medium, Video)
    fps = {"fps": medium.fps} if isinstance(medium, Video) and medium.fps else {}
    if _is_file(source):
        return {"video" if is_video else "image": _read(source)}
    if is_video and isinstance(source, (list, tuple)):
        if source and all(map(_is_file, source)):
            return {"frames": [_read(frame) for frame in source], **fps}
        pixels = _stack(source, medium.layout and medium.layout[1:])
    elif _is_pil(source) and (_load(source).mode != "RGB" or source.getexif()):
        # The server turns it, and puts it on white.
        return {"image": _base64(_encode_pil(source, "PNG"))}
    else:
        pixels = to_pixels(source, medium.layout, ("THWC", "TCHW") if is_video else ("HWC", "CHW"))
    if image_format == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
        return {"npy": _base64(buffer.getvalue()), "layout": "THWC" if is_video else "HWC", **fps}
    encode = _encode_jpeg if image_format == "jpeg" else encode_png
    if is_video:
        return {"frames": [_base64(encode(frame)) for frame in pixels], **fps}
    return {"image": _base64(encode(pixels))}


def _is_pil(source: Any) -> bool:
    return hasattr(source, "getexif")


_loading = threading.Lock()


def _load(image: Any) -> Any:
    """Read the file of a PIL image, which two threads cannot do at once."""
    try:
        with _loading:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"the PIL image cannot be loaded: {error}") from error
    return image


def _stack(frames: Sequence[Any], layout: str | None) -> np.ndarray:
    pixels = [to_pixels(frame, layout, ("HWC", "CHW")) for frame in frames]
    if len({frame.shape for frame in pixels}) != 1:
        raise MediaError(f"a video has frames of one size, not {[each.shape for each in pixels]}")
    return np.stack(pixels)


def _is_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike, bytes))


def _encode_jpeg(pixels: np.ndarray) -> bytes:
    import PIL.Image

    return _encode_pil(PIL.Image.fromarray(pixels), "JPEG")


def _encode_pil(image: Any, pil_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, pil_format, quality=95, compress_level=1, exif=image.getexif())
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _read(source: Any) -> str:
    try:
        return _base64(source if isinstance(source, bytes) else Path(source).read_bytes())
    except OSError as error:
        raise MediaError(f"{source} cannot be read: {error}") from error


# ---- Client: requests, and answers of which nothing is believed unread


@dataclass(frozen=True)
class Reward:
    """A judge's answer to an item."""

    value: float | None
    """The score; of a comparison the probability that the first is better. None if it failed."""
    reason: str = ""
    """Reason of a missing value, or a note such as of JPEG; otherwise empty."""
    normalized: float | None = None
    """The score from 0 to 1, where the judge has a scale."""
    sigma: float | None = None
    """Standard deviation of the judge's own distribution over its scale."""
    aspects: Mapping[str, float | None] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    """The server's whole row; empty without a readable answer."""


@dataclass
class _Call:
    """A call of `RewardClient.ask`, shared by the threads that send its requests."""

    verb: str
    judges: list[str]
    options: Mapping[str, Any]
    answered: bool = False
    error: ServerError | None = None
    n_silent: int = 0
    """Requests without any answer since the last answer."""


class RewardClient:
    """Client of ``unified-reward serve``, for any number of threads.

    Connections are kept, and no proxy is used. Items are sent in parallel requests and answered in
    order. Lost connections and the statuses 429 and 503 are tried again, no other status.
    """

    max_items = 16
    """Most items of a request."""
    max_bytes = 32 << 20
    """Most bytes of a request of more than one item."""
    backoff_s = 0.5
    """Seconds before the second try after a lost connection; doubled before each further one."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 5,
        image_format: str = "auto",
        concurrency: int = 8,
    ) -> None:
        """Set up; nothing is sent.

        Args:
            url: Such as ``http://127.0.0.1:8100``.
            token: Default: the environment's ``UNIFIED_REWARD_TOKEN``.
            timeout_s: Seconds for a request of up to 16 items, all tries together.
            retries: Further tries after lost connections, ``backoff_s`` apart and doubling.
            image_format: Encoding of pixels: ``npy`` (raw), ``png``, or ``jpeg`` (quality 95, named
                in `Reward.reason`); ``auto`` is ``npy`` on this machine and ``png`` elsewhere.
            concurrency: Most requests of a call at a time.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's url is such as http://127.0.0.1:8100, not {url!r}")
        if image_format not in ("auto", "npy", "png", "jpeg"):
            raise ValueError(f"image_format is auto, npy, png or jpeg, not {image_format!r}")
        self.url, self._path = url.rstrip("/"), parts.path.rstrip("/")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._connect = partial(kinds[parts.scheme], parts.hostname, parts.port)
        local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self.image_format = ("npy" if local else "png") if image_format == "auto" else image_format
        self.timeout_s, self.retries, self.concurrency = timeout_s, retries, max(1, concurrency)
        token = os.environ.get("UNIFIED_REWARD_TOKEN", "") if token is None else token
        self._headers = {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}
        self._thread, self._connections = threading.local(), []
        weakref.finalize(self, _close_all, self._connections)
        self._requests = ThreadPoolExecutor(self.concurrency, "reward-request")
        self._callers = ThreadPoolExecutor(4 * self.concurrency, "reward-call")

    def score(self, judge: str, items: Sequence[Item]) -> list[Reward]:
        """Score the only candidate of each item."""
        return self.ask("score", [judge], items)[judge]

    def compare(self, judge: str, items: Sequence[Item]) -> list[Reward]:
        """Compare the two candidates of each item, in both orders."""
        return self.ask("compare", [judge], items)[judge]

    def rank(self, judge: str, items: Sequence[Item], by: str = "score") -> list[list[Reward]]:
        """Score every candidate of each item; ``by="pairs"``: from comparisons of all pairs."""
        return [
            _candidate_rewards(reward, "scores", len(item.candidates))
            for item, reward in zip(items, self.ask("rank", [judge], items, by=by)[judge])
        ]

    def group(self, judge: str, items: Sequence[Item]) -> list[list[Reward]]:
        """Win rate of every candidate of each item against the others of the item."""
        return [
            _candidate_rewards(reward, "win_rates", len(item.candidates))
            for item, reward in zip(items, self.ask("group", [judge], items)[judge])
        ]

    def ask(
        self, verb: str, judges: Sequence[str], items: Sequence[Item], **options: Any
    ) -> dict[str, list[Reward]]:
        """Put items to several judges at once, each medium sent once.

        Args:
            verb: ``score``, ``compare``, ``rank`` or ``group``.
            judges: Names on the server.
            items: Questions.
            options: Further fields of the request, such as ``orders=1``.

        Returns:
            A reward for each item, by judge.

        Raises:
            ServerError: The server refused a request, or answered none.
        """
        call = _Call(verb, list(judges), options)
        most = self.max_items if verb in ("score", "compare") else 1
        size = min(most, max(1, math.ceil(len(items) / self.concurrency)))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        in_order = self._requests.map if len(chunks) > 1 else map
        parts = list(in_order(partial(self._ask_chunk, call), chunks))
        if call.error and not call.answered:
            raise call.error
        return {judge: [each[judge] for part in parts for each in part] for judge in call.judges}

    def _ask_chunk(self, call: _Call, items: Sequence[Item]) -> list[dict[str, Reward]]:
        rewards: list[dict[str, Reward]] = [{} for _ in items]
        rows: list[tuple[str, bytes, dict[str, Reward]]] = []
        for place, (item, each) in enumerate(zip(items, rewards)):
            row: dict[str, Any] = {"id": item.id or str(place), "prompt": item.prompt}
            row.update({k: v for k in ("task", "criteria") if (v := getattr(item, k))})
            try:
                for key in ("context", "candidates"):
                    row[key] = [encode_medium(m, self.image_format) for m in getattr(item, key)]
                text = json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
                rows.append((row["id"], text, each))
            except (MediaError, UnicodeError) as error:
                each.update(dict.fromkeys(call.judges, Reward(None, f"cannot be sent: {error}")))
        if rows:
            self._send(call, rows)
        return rewards

    def _send(self, call: _Call, rows: list[tuple[str, bytes, dict[str, Reward]]]) -> None:
        """Send encoded items, and put a reward of each judge beside each of them."""
        if len(rows) > 1 and sum(len(text) for _, text, _ in rows) > self.max_bytes:
            self._send(call, rows[: len(rows) // 2])
            self._send(call, rows[len(rows) // 2 :])
            return
        options = {"judges": call.judges, "timeout_s": 0.9 * self.timeout_s, **call.options}
        head = json.dumps(options, allow_nan=False)[:-1].encode()
        body = b'%b, "items": [%b]}' % (head, b", ".join(text for _, text, _ in rows))
        try:
            if call.error and call.n_silent >= self.concurrency:
                raise call.error
            results = self._json("POST", f"/v1/{call.verb}", body)["results"]
            counts = {judge: len(results[judge]) for judge in call.judges}
            if set(counts.values()) != {len(rows)}:
                raise ValueError(f"{counts} rows for {len(rows)} items")
            for place, (row_id, _, each) in enumerate(rows):
                answers = {judge: results[judge][place] for judge in call.judges}
                each.update(
                    {k: _read_reward(v, row_id, self.image_format) for k, v in answers.items()}
                )
            call.answered, call.n_silent = True, 0
            return
        except ServerError as error:
            if error.status in range(300, 500) and error.status not in (413, 429):
                raise
            call.error, call.n_silent = error, call.n_silent + (error.status is None)
        except (ValueError, TypeError, KeyError) as error:
            call.error = ServerError(f"{self.url} gave an unreadable answer: {error!r:.300}")
        for _, _, each in rows:
            each.update(dict.fromkeys(call.judges, Reward(None, str(call.error))))

    def judges(self) -> list[dict[str, Any]]:
        """Roster: name, state, tasks, scale, range, licence and revision of each judge."""
        return self._json("GET", "/v1/judges")["judges"]

    def health(self) -> dict[str, Any]:
        """State of the server and of each judge, in one try."""
        deadline = time.monotonic() + min(10.0, self.timeout_s)
        return _read_json(self._exchange("GET", "/health", None, deadline)[2])

    def wait_ready(self, timeout_s: float = 600.0) -> None:
        """Wait while judges load; raises ServerError if none could be loaded, or time is over."""
        deadline, health = time.monotonic() + timeout_s, {}
        while health.get("status") != "ok":
            try:
                health = self.health()
                problem = f"{health['status']}: {health.get('judges')}"
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                problem = repr(error)
            if health.get("status") == "failed" or time.monotonic() > deadline:
                raise ServerError(f"{self.url} is not ready within {timeout_s:g} s; {problem}")
            time.sleep(0.0 if health.get("status") == "ok" else 0.2)

    def close(self) -> None:
        """Close threads and connections."""
        self._callers.shutdown()
        self._requests.shutdown()
        _close_all(self._connections)

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def in_thread(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a function in a thread of this client, while the event loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._callers, partial(function, *args, **options))

    def _json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Answer of status 200, after as many tries as make sense."""
        deadline, lost = time.monotonic() + self.timeout_s, 0
        while True:
            status = None
            try:
                status, wait_s, raw = self._exchange(method, path, body, deadline)
                if status == 200:
                    return _read_json(raw)
                kind, message = _read_error(raw)
                problem = f"status {status}: {message}"
            except (OSError, http.client.HTTPException) as error:
                lost += 1
                problem, wait_s = repr(error), self.backoff_s * 2 ** (lost - 1)
            if status not in (None, 429, 503) or (status and kind == "failed"):
                raise ServerError(f"{self.url}{path} answered {problem}", status)
            if lost > self.retries or time.monotonic() + wait_s >= deadline:
                tries = f" ({lost} connections lost)" if lost else ""
                within = "" if lost > self.retries else f" within {self.timeout_s:g} s"
                at = f"{self.url}{path}{within}{tries}"
                raise ServerError(f"no answer from {at}; the last: {problem}", status)
            level = logging.INFO if status == 429 else logging.WARNING  # 429: the server is busy
            log.log(level, "%s%s: %s; next try in %g s", self.url, path, problem, wait_s)
            time.sleep(wait_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, deadline: float
    ) -> tuple[int, float, bytes]:
        """Status, seconds to wait and body of an answer, on this thread's connection."""
        connection = getattr(self._thread, "connection", None)
        if connection is None:
            connection = self._thread.connection = self._connect()
            self._connections.append(connection)
        was_open = connection.sock is not None
        try:
            connection.timeout = _seconds_left(deadline)
            if not was_open:
                connection.connect()
            stream = connection.sock
            stream.settimeout(connection.timeout)
            headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered 413
                connection.request(method, self._path + path, body, headers)
            response = connection.getresponse()
            data, length = bytearray(), response.length
            while length is None or len(data) < length:
                stream.settimeout(_seconds_left(deadline))
                part = response.read1(1 << 16)
                if not part:
                    break
                data += part
            response.close()
            if length is not None and len(data) < length:
                raise http.client.IncompleteRead(bytes(data), length - len(data))
        except (OSError, http.client.HTTPException):
            connection.close()
            if not was_open:
                raise
            return self._exchange(method, path, body, deadline)  # it was closed while idle
        try:
            wait_s = max(0.0, float(response.headers.get("Retry-After", "")))
        except ValueError:
            wait_s = 1.0
        return response.status, wait_s, bytes(data)


class AsyncRewardClient:
    """The methods of a `RewardClient` as coroutines, each in a thread of that client."""

    def __init__(self, client: RewardClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self.client.in_thread, getattr(self.client, name))


def _close_all(connections: Iterable[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("no time is left")
    return left


def _read_json(raw: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    try:
        return json.loads(raw, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): {raw[:80]!r}") from error


def _read_error(raw: bytes) -> tuple[str, str]:
    """Kind and message of an error; kind ``failed``: the judge could not be loaded."""
    try:
        error = _read_json(raw)["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, TypeError, KeyError):
        return "", repr(raw[:200])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is not None and not _is_number(value):
        raise ValueError(f"{key} is {value!r:.40}, not a number")
    return None if value is None else float(value)


def _read_reward(row: Any, row_id: str, image_format: str) -> Reward:
    """Read an item's row; one that is not as it must be has failed."""
    try:
        status, reason = row["status"], row.get("reason") or ""
        failures, answers = ("failed", "unparsed"), ("scored", "preferred", "ranked")
        if row["id"] != row_id or status not in failures + answers:
            raise ValueError(f"id {row['id']!r:.80} for {row_id!r:.80}, status {status!r:.40}")
        if status in failures:
            return Reward(None, f"{status}: {reason}", row=row)
        aspects = row.get("aspects") or {}
        aspects = {name: _number(aspects, name) for name in aspects}
        value = _number(row, "probability" if status == "preferred" else "value")
        normalized, sigma = _number(row, "normalized"), _number(row, "sigma")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Reward(None, f"unreadable row: {error!r}")
    if value is None and status != "ranked":
        known = f", only aspects: {', '.join(aspects)}" if aspects else ""
        reason = f"the judge gave no overall value{known}"
    elif image_format == "jpeg":
        reason = f"{reason}; " if reason else "note: "
        reason += "pixels were sent as JPEG of quality 95"
    return Reward(value, reason, normalized, sigma, aspects, row)


def _candidate_rewards(reward: Reward, key: str, n: int) -> list[Reward]:
    given: Any = reward.row.get(key)
    values: list[Any] = given if isinstance(given, list) and len(given) == n else [None] * n
    numbers = [float(value) if _is_number(value) else None for value in values]
    alone = "there is no other candidate to compare with" if n == 1 and key == "win_rates" else ""
    missing = reward.reason or alone or f"the candidate has no number among {key}"
    note = reward.reason.removeprefix(str(reward.row.get("reason") or "")).removeprefix("; ")
    return [Reward(v, missing if v is None else note, row=reward.row) for v in numbers]


# ---- Reward sets: scales, groups, failures


@dataclass(frozen=True)
class Scale:
    """Linear scale of a reward: (value + offset) / divisor."""

    divisor: float = 1.0
    offset: float = 0.0
    unit: str = ""
    usual: tuple[float, float] = (-math.inf, math.inf)
    """Range of a batch's mean before scaling; outside of it the report warns of another unit."""
    source: str = ""


SCALES: Mapping[str, Scale] = {
    "raw": Scale(),
    "pickscore/26": Scale(26, 0, "logit, 100 cosine", (5, 40), "flow_grpo, verl-omni, UniRL"),
    "unifiedreward/5": Scale(5, 0, "overall score, 1 to 5", (1, 5), "flow_grpo"),
    "unifiedreward-2/4": Scale(4, -1, "mean of the aspects, 1 to 5", (1, 5), "verl-omni"),
    "rationalrewards/3": Scale(3, -1, "mean of the aspects, 1 to 4", (1, 4), "Flow-Factory"),
    "hpsv3/15": Scale(15, 0, "mu", (-15, 30), "UniRL"),
    "hpsv3*0.1": Scale(10, 0, "mu", (-15, 30), "verl-omni"),
    "imagereward(s+2)/4": Scale(4, 2, "standardised score", (-4, 4), "UniRL"),
    "clip/100": Scale(100, 0, "100 cosine", (2, 60), "FastVideo"),
    "clip/30": Scale(30, 0, "100 cosine", (2, 60), "UniRL"),
}
"""Scales of published trainers by name."""


@dataclass(frozen=True)
class RewardTerm:
    """A judge's part in a `RewardSet`."""

    judge: str
    weight: float = 1.0
    scale: str | Scale = "raw"
    """A name of `SCALES`, or a scale."""
    aspect: str = ""
    """Aspect to take for the overall value; ``mean`` is the mean of all."""
    form: str = "score"
    """``score``, or ``win_rate`` against the others of the group."""
    min_spread: float | str = 0.0
    """Standard deviation of a group, in units of the scaled value, up to which differences are the
    judge's noise. ``sigma``: the root mean square of the group's sigmas, for judges such as HPSv3
    whose sigma is an error of measurement."""
    name: str = ""
    """Default: the judge, and the aspect after a dot."""

    def __post_init__(self) -> None:
        if self.form not in ("score", "win_rate"):
            raise ValueError(f"form is score or win_rate, not {self.form!r}")
        if not isinstance(self.scale, Scale) and self.scale not in SCALES:
            raise ValueError(f"there is no scale {self.scale!r}; there are {', '.join(SCALES)}")
        floor: Any = self.min_spread
        if floor != "sigma" and not (_is_number(floor) and floor >= 0):
            raise ValueError(f"min_spread is a number >= 0 or 'sigma', not {self.min_spread!r}")
        name = self.name or ".".join(filter(None, (self.judge, self.aspect)))
        object.__setattr__(self, "name", name)

    @property
    def linear(self) -> Scale:
        """The scale itself."""
        return self.scale if isinstance(self.scale, Scale) else SCALES[self.scale]

    def read(self, reward: Reward | float | None) -> tuple[float, float, str]:
        """Scaled value and sigma (NaN where missing), and the reason of a missing value."""
        value: Any = reward
        sigma, reason = None, "no reward"
        if isinstance(reward, Reward):
            value, sigma, reason = reward.value, reward.sigma, reward.reason
            if self.aspect and reward.row.get("status") == "scored":
                parts = [v for k, v in reward.aspects.items() if self.aspect in (k, "mean")]
                known = [part for part in parts if part is not None]
                value = sum(known) / len(known) if known and len(known) == len(parts) else None
                sigma, reason = None, f"the answer lacks the aspect {self.aspect}"
        if value is None:
            return math.nan, math.nan, reason or "no value"
        if isinstance(value, (bool, np.bool_)) or not math.isfinite(value):
            return math.nan, math.nan, f"{value} is not a finite number"
        scale = self.linear
        sigma = math.nan if sigma is None else sigma / abs(scale.divisor)
        return (float(value) + scale.offset) / scale.divisor, sigma, ""


def group_index(groups: Iterable[Hashable]) -> np.ndarray:
    """Number of each item's group, from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in groups], np.intp)


def group_mean(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean of each item's group without NaN, which a group of nothing else gets."""
    valid = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means = np.bincount(groups, np.where(valid, values, 0.0)) / np.bincount(groups, valid)
    return means[groups]


def group_spread(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Population standard deviation of each item's group without NaN."""
    return np.sqrt(group_mean((values - group_mean(values, groups)) ** 2, groups))


def z_scores(values: np.ndarray, groups: np.ndarray, floor: Any = 0.0) -> np.ndarray:
    """Distance from the mean of the group in standard deviations of the group.

    NaN stays NaN and counts for no other. A group gets zeros if its standard deviation is not above
    ``floor`` and above rounding: its differences are noise.
    """
    mean, spread = group_mean(values, groups), group_spread(values, groups)
    counts = spread > np.maximum(floor, 1e-6 * np.abs(mean) + 1e-12)
    scores = np.where(counts, (values - mean) / np.where(counts, spread, 1.0), 0.0)
    return np.where(np.isfinite(values), scores, np.nan)


def judge_noise(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard deviation of the noise of a judge that scored the same items twice."""
    return float(np.std(np.subtract(first, second)) / math.sqrt(2))


@dataclass(frozen=True)
class Report:
    """Figures of a batch, in units of the scaled values, and what is suspicious about them."""

    figures: Mapping[str, float]
    """By ``REWARD/``: ``mean``, ``spread`` (mean standard deviation of a group), ``ties`` (share of
    pairs in a group), ``noise`` (share of groups not above the floor), ``failed`` (share of items);
    by ``A~B/correlation``, after the means of the groups are taken off. All are finite."""
    reasons: Mapping[str, Mapping[str, int]]
    """Number of failures by reward and reason."""
    warnings: Mapping[str, str]
    """By reward and kind, such as ``pickscore/constant``."""

    def __str__(self) -> str:
        lines = [f"{name} {value:.4g}" for name, value in self.figures.items()]
        return "\n".join([*lines, *self.warnings.values()])


@dataclass(frozen=True)
class Combined:
    """Rewards of a batch."""

    values: list[float | None]
    reasons: list[str]
    """Reason of a missing value; otherwise empty."""
    scaled: dict[str, list[float | None]]
    """Scaled values of each reward alone."""
    report: Report


class RewardSet:
    """Several rewards with weights, combined into a number for each item."""

    def __init__(
        self,
        terms: Sequence[RewardTerm],
        *,
        aggregate: str = "gdpo",
        on_failure: str | float = "none",
    ) -> None:
        """Set up.

        Args:
            terms: Rewards with their weights and scales.
            aggregate: ``gdpo``: the weighted sum of each reward's z-scores in the group (arXiv
                2601.05242); ``sum``: the weighted sum of scaled values.
            on_failure: Result of an item of which a reward failed: ``none`` gives None, ``raise``
                raises, a number is the value. It never counts in its group's statistics.
        """
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a set has rewards of different names, not {names}")
        if aggregate not in ("gdpo", "sum"):
            raise ValueError(f"aggregate is gdpo or sum, not {aggregate!r}")
        if on_failure not in ("none", "raise") and not _is_number(on_failure):
            raise ValueError(f"on_failure is none, raise or a finite number, not {on_failure!r}")
        self.terms, self.aggregate, self.on_failure = list(terms), aggregate, on_failure
        self._warned: set[str] = set()
        self._recent = {name: deque(maxlen=64) for name in names}

    def score(
        self, client: RewardClient, items: Sequence[Item], groups: Iterable[Hashable] | None = None
    ) -> Combined:
        """Ask a server about items of one candidate each, and combine the answers.

        Args:
            client: Client of the server.
            items: Questions.
            groups: Group of each item, such as the id of its prompt; default its prompt.

        Raises:
            ServerError: The server refused the request, or does not answer.
            RewardError: A reward failed, and the policy is ``raise``.
        """
        index = group_index([item.prompt for item in items] if groups is None else groups)
        scored = list(dict.fromkeys(t.judge for t in self.terms if t.form == "score"))
        answers = {"score": client.ask("score", scored, items) if scored else {}, "win_rate": {}}
        for judge in {term.judge for term in self.terms if term.form == "win_rate"}:
            answers["win_rate"][judge] = _win_rates(client, judge, items, index)
        return self.combine({t.name: answers[t.form][t.judge] for t in self.terms}, index)

    def combine(
        self,
        rewards: Mapping[str, Sequence[Reward | float | None]],
        groups: Iterable[Hashable] | None = None,
    ) -> Combined:
        """Combine the values of every reward, by name; without groups all items are one group."""
        n = len(rewards[self.terms[0].name])
        index = group_index([0] * n if groups is None else groups)
        lengths = {term.name: len(rewards[term.name]) for term in self.terms}
        if {*lengths.values(), len(index)} != {n}:
            raise ValueError(f"there are {lengths} rewards and {len(index)} groups")
        read = {term.name: [term.read(each) for each in rewards[term.name]] for term in self.terms}
        values = {name: np.array([row[0] for row in rows]) for name, rows in read.items()}
        reasons = [
            "; ".join(f"{k}: {v[i][2]}" for k, v in read.items() if v[i][2]) for i in range(n)
        ]
        complete = np.all(np.isfinite(list(values.values())), axis=0).reshape(n)
        if self.on_failure == "raise" and not complete.all():
            first = next(filter(None, reasons))
            raise RewardError(
                f"{n - complete.sum()} of {n} items lack a reward; the first: {first}"
            )
        total, floors = np.zeros(n), {}
        for term in self.terms:
            kept = np.where(complete, values[term.name], np.nan)
            floors[term.name] = floor = _floor(term, read[term.name], index)
            part = z_scores(kept, index, floor) if self.aggregate == "gdpo" else kept
            total += term.weight * part
        failed = None if isinstance(self.on_failure, str) else float(self.on_failure)
        combined = [v if ok else failed for v, ok in zip(total.tolist(), complete)]
        report = self._report(rewards, read, index, floors)
        scaled = {
            k: [v if math.isfinite(v) else None for v in a.tolist()] for k, a in values.items()
        }
        return Combined(combined, reasons, scaled, report)

    def _report(
        self,
        rewards: Mapping[str, Sequence[Any]],
        read: Mapping[str, Sequence[tuple[float, float, str]]],
        index: np.ndarray,
        floors: Mapping[str, Any],
    ) -> Report:
        figures, reasons, warnings = {}, {}, {}
        values = {name: np.array([row[0] for row in rows]) for name, rows in read.items()}
        for term in self.terms:
            name, own = term.name, values[term.name]
            reasons[name] = dict(Counter(row[2] for row in read[name] if row[2]))
            found = _figures(own, index, floors[name])
            figures.update({f"{name}/{key}": v for key, v in found.items() if math.isfinite(v)})
            recent = self._recent[name]
            recent.extend(own[np.isfinite(own)].tolist())
            sample = own if len(own) > 1 else np.array(recent)
            texts = _suspicions(term, sample, found, reasons[name], rewards[name])
            warnings.update({f"{name}/{kind}": f"{name}: {text}" for kind, text in texts.items()})
        for a, b in combinations(values, 2):
            r = _correlation(values[a], values[b], index)
            figures.update({f"{a}~{b}/correlation": r} if math.isfinite(r) else {})
        if self.aggregate == "gdpo" and len(index) and np.bincount(index).max() == 1:
            warnings["groups/single"] = "every group has one item, of which gdpo makes zeros"
        for key in sorted(warnings.keys() - self._warned):
            log.warning(warnings[key])
        self._warned |= warnings.keys()
        return Report(figures, reasons, warnings)


def _win_rates(
    client: RewardClient, judge: str, items: Sequence[Item], index: np.ndarray
) -> list[Reward]:
    """Win rate of each item's candidate in its group, whose prompt and context are the first's."""
    places = [np.flatnonzero(index == group).tolist() for group in range(index.max(initial=-1) + 1)]
    questions = [
        replace(items[each[0]], candidates=[items[i].candidates[0] for i in each], id="")
        for each in places
    ]
    rewards = [Reward(None)] * len(items)
    for each, answers in zip(places, client.group(judge, questions)):
        for i, answer in zip(each, answers):
            rewards[i] = answer
    return rewards


def _floor(term: RewardTerm, read: Sequence[tuple[float, float, str]], index: np.ndarray) -> Any:
    if term.min_spread != "sigma":
        return term.min_spread
    values, sigmas = np.array([row[:2] for row in read], dtype=float).reshape(-1, 2).T
    if np.isfinite(values).any() and np.isnan(sigmas).all():
        raise ValueError(f"{term.name} has min_spread='sigma', and its answers carry no sigma")
    return np.nan_to_num(np.sqrt(group_mean(sigmas**2, index)))


def _figures(values: np.ndarray, index: np.ndarray, floor: Any) -> dict[str, float]:
    valid = np.isfinite(values)
    if not valid.any():
        return {"failed": 1.0}
    own, groups = values[valid], index[valid]
    flat = z_scores(own, groups, np.broadcast_to(floor, values.shape)[valid]) == 0
    sizes = np.bincount(groups)
    several = sizes > 1
    equal = Counter(zip(groups.tolist(), own.tolist())).values()
    pairs, ties = (sum(n * (n - 1) / 2 for n in each) for each in (sizes, equal))
    noise = np.bincount(groups, flat)[several] == sizes[several]
    return {
        "mean": float(own.mean()),
        "spread": float(group_spread(own, groups)[np.unique(groups, return_index=True)[1]].mean()),
        "ties": float(ties / pairs) if pairs else math.nan,
        "noise": float(noise.mean()) if several.any() else math.nan,
        "failed": float(1 - valid.mean()),
    }


def _correlation(first: np.ndarray, second: np.ndarray, index: np.ndarray) -> float:
    both = np.isfinite(first + second)
    a, b = (v[both] - group_mean(v[both], index[both]) for v in (first, second))
    size = math.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 1e-12 else math.nan


def _suspicions(
    term: RewardTerm,
    values: np.ndarray,
    figures: Mapping[str, float],
    reasons: Mapping[str, int],
    rewards: Sequence[Any],
) -> dict[str, str]:
    found, scale = {}, term.linear
    raw = values[np.isfinite(values)] * scale.divisor - scale.offset
    if reasons and figures["failed"] > 0.05:
        common = max(reasons, key=reasons.__getitem__)
        found["failed"] = f"{figures['failed']:.0%} failed, most by: {common:.200}"
    if len(raw) >= (2 if len(rewards) > 1 else 16) and np.ptp(raw) < 1e-9:
        rows = [each.row for each in rewards if isinstance(each, Reward) and each.value is not None]
        limits = f" on its scale {rows[0]['scale']}" if rows and rows[0].get("scale") else ""
        found["constant"] = (
            f"all {len(raw)} values are {raw[0]:g}{limits}: check what the judge answers"
        )
    elif figures.get("noise", 0) > 0.5:
        found["noise"] = "in most groups the spread is not above min_spread and counts for nothing"
    low, high = scale.usual
    if len(raw) and not low <= raw.mean() <= high:
        found["unit"] = f"mean {raw.mean():.3g}; {term.scale} is for {scale.unit}, {low} to {high}"
    return found


# ---- Adapters: factories of what trainers call


def trl_reward(
    client: RewardClient, rewards: RewardSet, *, num_generations: int, name: str = "unified_reward"
) -> Callable[..., Any]:
    """An asynchronous reward function for TRL's ``GRPOTrainer`` that holds all rewards.

    A row of which any reward failed is None, so that TRL leaves it out. Images or videos come from
    the columns ``image``, ``images``, ``video`` or ``videos``. Figures go to TRL's log.

    Args:
        client: Client of the server.
        rewards: Rewards, all of which belong here: TRL counts one that is None beside others as 0.
        num_generations: As in ``GRPOConfig``; rows of a group follow each other.
        name: Name in TRL's log.
    """

    async def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list:
        if len(completions) % num_generations and rewards.aggregate == "gdpo":
            raise ValueError(
                f"gdpo needs whole groups of {num_generations} in each process, which has "
                f"{len(completions)} rows: change the batch size, or aggregate='sum'"
            )
        answers = [_text(completion, "assistant") for completion in completions]
        media = [_media_of(columns, i) for i in range(len(answers))]
        items = _items([_text(prompt, "user") for prompt in prompts], answers, media)
        groups = [i // num_generations for i in range(len(items))]
        result = await client.in_thread(rewards.score, client, items, groups)
        if columns.get("log_metric"):
            for key, figure in result.report.figures.items():
                columns["log_metric"](f"{name}/{key}", figure)
        if columns.get("log_extra"):
            columns["log_extra"](f"{name}_failure", result.reasons)
        return result.values

    reward.__name__ = name
    return reward


def _items(
    prompts: Sequence[Any], candidates: Sequence[Any], contexts: Sequence[Any] | None = None
) -> list[Item]:
    contexts = [()] * len(prompts) if contexts is None else contexts
    if not len(prompts) == len(candidates) == len(contexts):
        n = len(prompts), len(candidates), len(contexts)
        raise ValueError("there are {} prompts, {} candidates and {} contexts".format(*n))
    return [Item(str(p), [c], x) for p, c, x in zip(prompts, candidates, contexts)]


def _text(value: Any, role: str) -> str:
    """A text, or the texts of a role in a conversation."""
    if isinstance(value, str):
        return value
    contents = [each.get("content") or "" for each in value if each.get("role") == role]
    parts = [[{"text": each}] if isinstance(each, str) else each for each in contents]
    return "\n".join(part["text"] for each in parts for part in each if part.get("text"))


def _media_of(columns: Mapping[str, Any], i: int) -> list[Image]:
    for key, kind in (("image", Image), ("images", Image), ("video", Video), ("videos", Video)):
        value = columns[key][i] if columns.get(key) is not None else None
        if value is not None:
            values = value if key.endswith("s") else [value]
            return [kind((v["bytes"] or v["path"]) if isinstance(v, dict) else v) for v in values]
    return []


def _check_needs(rewards: RewardSet, trainer: str, *, whole_groups: bool) -> None:
    if rewards.on_failure == "none":
        raise ValueError(f"{trainer} needs a number: on_failure is 'raise', or a value you choose")
    in_groups = rewards.aggregate == "gdpo" or any(t.form == "win_rate" for t in rewards.terms)
    if in_groups and not whole_groups:
        raise ValueError(f"{trainer} does not pass whole groups: aggregate='sum', form='score'")


def flow_grpo_reward(
    client: RewardClient, rewards: RewardSet, *, layout: str | None = None, fps: float | None = None
) -> Callable[..., tuple[list[float], dict[str, Any]]]:
    """``fn(images, prompts, metadata) -> (scores, info)`` of flow_grpo, DiffusionNFT and forks.

    Args:
        client: Client of the server.
        rewards: With ``aggregate="sum"``, as a process has parts of groups, and a failure policy
            other than ``none``: these trainers need a number.
        layout: Layout of an image or a video where the shape fits two.
        fps: Frames per second of videos.
    """
    _check_needs(rewards, "flow_grpo", whole_groups=False)

    def score(images: Any, prompts: Sequence[str], metadata: Any = None, *_: Any) -> tuple:
        batch = images if isinstance(images, (list, tuple)) else to_array(images)
        media = [as_medium(each, layout, fps) for each in batch]
        result = rewards.score(client, _items(prompts, media))
        return result.values, result.scaled

    return score


def verl_omni_compute_score(
    client: RewardClient, rewards: RewardSet, *, fps: float | None = None
) -> Callable[..., Any]:
    """``async compute_score(data_source, solution_image, ground_truth, extra_info)`` of verl-omni.

    ``solution_image`` is CHW or TCHW in uint8; the prompt is that of ``extra_info``, or
    ``ground_truth``. For ``rewards`` see `flow_grpo_reward`.
    """
    _check_needs(rewards, "verl-omni", whole_groups=False)

    async def compute_score(
        data_source: Any, solution_image: Any, ground_truth: Any, extra_info: Any = None, **_: Any
    ) -> dict[str, Any]:
        extra = extra_info or {}
        prompt = extra.get("prompt") or extra.get("raw_prompt") or ground_truth
        layout = "CHW" if solution_image.ndim == 3 else "TCHW"
        item = Item(_text(prompt, "user"), [as_medium(solution_image, layout, fps)])
        result = await client.in_thread(rewards.score, client, [item])
        parts = {k: math.nan if v[0] is None else v[0] for k, v in result.scaled.items()}
        return {"score": result.values[0], **parts}  # NaN: verl takes means of these for its log

    return compute_score


def flow_factory_reward(
    client: RewardClient,
    rewards: RewardSet,
    base: type,
    output: Callable[..., Any],
    *,
    required_fields: tuple[str, ...] = ("prompt", "image"),
) -> type:
    """A reward class for Flow-Factory.

    Args:
        client: Client of the server.
        rewards: With a failure policy other than ``none``; z-scores and win rates for a groupwise
            base alone, which gets the whole group of a prompt.
        base: Flow-Factory's ``PointwiseRewardModel`` or ``GroupwiseRewardModel``.
        output: Its ``RewardModelOutput``.
        required_fields: Fields of a sample: with ``video``, ``condition_images`` where needed.
    """
    groupwise = "Groupwise" in base.__name__
    _check_needs(rewards, "a pointwise class of Flow-Factory", whole_groups=groupwise)

    class UnifiedReward(base):  # type: ignore[misc,valid-type]
        """Rewards of a server."""

        def __call__(
            self,
            prompt: Sequence[str],
            image: Any = None,
            video: Any = None,
            condition_images: Any = None,
            condition_videos: Any = None,
            **_: Any,
        ) -> Any:
            given = image if video is None else video
            if given is None:
                raise ValueError("there is neither image nor video: check required_fields")
            media = [*map(Image if video is None else Video, given)]
            nothing = [()] * len(prompt)
            sources = zip(condition_images or nothing, condition_videos or nothing)
            context = [[*map(Image, images), *map(Video, videos)] for images, videos in sources]
            items = _items(prompt, media, context)
            result = rewards.score(client, items, [0] * len(items) if groupwise else None)
            return output(rewards=np.asarray(result.values, np.float32), extra_info=result.scaled)

    UnifiedReward.required_fields, UnifiedReward.use_tensor_inputs = required_fields, False
    return UnifiedReward
