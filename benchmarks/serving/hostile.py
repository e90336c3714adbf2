"""Requests that go wrong, in a fixed mixture, with the answer that each must get."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.serving.http import request_bytes
from benchmarks.serving.pictures import Album, encode, picture
from benchmarks.serving.scorers import POISON
from benchmarks.serving.wires import base64_text


SHARES = {
    "broken media": 0.05,
    "oversize": 0.02,
    "disconnect": 0.01,
    "NaN from the model": 0.02,
    "hostile pickle": 0.01,
    "pickle": 0.01,
    "multipart": 0.02,
    "unreadable": 0.01,
    "judge not loaded": 0.005,
}
"""Shares of requests by kind; the rest are sound."""
SIDE = 256
JUDGE, UNLOADABLE = "clip", "absent"
_FORMATS = ("png", "jpeg75", "jpeg95", "npy")
_BOUNDARY = "4f2c9a1e"


@dataclass(frozen=True)
class Planned:
    """A request, and what its answer must be."""

    kind: str
    request: bytes
    statuses: tuple[int, ...] = (200,)
    """Statuses that are right."""
    ids: Sequence[str] = ()
    """Ids of the rows of a right answer, in order."""
    fails: Sequence[bool] = ()
    """By row, whether it must fail; a row that must not fail must have a number."""
    cut: int | None = None
    """Bytes after which the client goes away; None for one that stays."""
    is_pickle: bool = False
    is_cut_short: bool = False
    """More of the body was announced than is sent; no other request can follow."""


class Requests:
    """Request number n depends on n and the seed alone."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._seed = seed
        self._albums = {kind: Album(SIDE, kind, 8) for kind in _FORMATS}
        self.trap = folder / "unpickled"
        """A file that a hostile pickle would make."""
        self._made: dict[str, Callable[[Random, str], Planned]] = {
            "broken media": self._broken,
            "oversize": self._oversize,
            "disconnect": self._disconnect,
            "NaN from the model": self._nan,
            "hostile pickle": self._hostile_pickle,
            "pickle": self._pickle,
            "multipart": self._multipart,
            "unreadable": self._unreadable,
            "judge not loaded": self._not_loaded,
        }

    def make(self, number: int) -> Planned:
        """Request number n."""
        rng = Random(f"{self._seed} {number}")
        place = rng.random()
        for kind, share in SHARES.items():
            place -= share
            if place < 0:
                return self._made[kind](rng, f"r{number}")
        return self._sound(rng, f"r{number}")

    def _item(self, rng: Random, name: str) -> dict[str, Any]:
        kind = rng.choice(_FORMATS)
        (file,) = self._albums[kind].take(1)
        medium = {"npy": base64_text(file), "layout": "HWC"}
        if kind != "npy":
            medium = {"image": base64_text(file)}
        return {"id": name, "prompt": f"a photo of {name}, a red cube", "candidates": [medium]}

    def _items(self, rng: Random, name: str) -> list[dict[str, Any]]:
        return [self._item(rng, f"{name}-{i}") for i in range(rng.randint(1, 3))]

    def _sound(self, rng: Random, name: str) -> Planned:
        return _planned("sound", self._items(rng, name))

    def _broken(self, rng: Random, name: str) -> Planned:
        items = self._items(rng, name)
        place = rng.randrange(len(items))
        items[place]["candidates"] = rng.choice(_broken_candidates())
        return _planned("broken media", items, place)

    def _nan(self, rng: Random, name: str) -> Planned:
        items = self._items(rng, name)
        place = rng.randrange(len(items))
        items[place]["prompt"] += f" and a {POISON}"
        return _planned("NaN from the model", items, place)

    def _oversize(self, rng: Random, name: str) -> Planned:
        items = self._items(rng, name)
        way = rng.choice(("body", "items", "pixels", "prompt", "bomb"))
        if way == "body":
            # The server refuses it by its head; as much of the body follows as the sockets take.
            whole = request_bytes("/v1/score", b"x" * 4_000_000)
            return Planned("oversize", _declared(whole, 1 << 30), (413,), is_cut_short=True)
        if way == "items":
            return Planned("oversize", _request([{"id": "x"}] * 1025), (400, 413))
        if way == "prompt":
            items[0]["prompt"] = "red " * 10_000
        else:
            bomb = _flat_png(5000, 5000) if way == "pixels" else _flat_png(60_000, 60_000, 1)
            items[0]["candidates"] = [{"image": base64_text(bomb)}]
        return _planned("oversize", items, 0)

    def _disconnect(self, rng: Random, name: str) -> Planned:
        made = self._sound(rng, name)
        length = len(made.request)
        return Planned("disconnect", made.request, cut=rng.choice((length, length // 2, 40)))

    def _pickle(self, rng: Random, name: str) -> Planned:
        n = rng.randint(1, 3)
        data = {"images": self._albums["jpeg75"].take(n), "prompts": [f"a cube {name}"] * n}
        request = request_bytes(f"/j/{JUDGE}", pickle.dumps(data), "application/octet-stream")
        names = [f"{name}-{i}" for i in range(n)]
        return Planned("pickle", request, ids=names, fails=[False] * n, is_pickle=True)

    def _hostile_pickle(self, rng: Random, name: str) -> Planned:
        trap = pickle.dumps(_Trap(self.trap))
        body = rng.choice((trap, pickle.dumps({"images": [_Trap(self.trap)]}), trap[:-5], b"\x80"))
        request = request_bytes(f"/j/{JUDGE}", body, "application/octet-stream")
        return Planned("hostile pickle", request, (422,))

    def _multipart(self, rng: Random, name: str) -> Planned:
        side = 700  # A megabyte and a half of pixels: a part that a spooled parser puts on disk.
        file = encode(_noise(side, rng.randrange(4)), "npy")[:-8] + struct.pack(
            ">Q", hash(name) % 2**63
        )
        medium = {"npy": "part:one", "layout": "HWC"}
        items = [{"id": name, "prompt": f"a photo of {name}", "candidates": [medium]}]
        parts = [
            ("request", json.dumps(_body(items)).encode(), ""),
            ("one", file, '; filename="x"'),
        ]
        body = b"".join(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{part}"{more}\r\n\r\n'.encode()
            + content
            + b"\r\n"
            for part, content, more in parts
        )
        whole = body + f"--{_BOUNDARY}--\r\n".encode()
        request = request_bytes("/v1/score", whole, f"multipart/form-data; boundary={_BOUNDARY}")
        return Planned("multipart", request, ids=[name], fails=[False])

    def _unreadable(self, rng: Random, name: str) -> Planned:
        bodies = (
            b"",
            b"{",
            b"[" * 100_000,
            b'{"items": 5}',
            b'{"items": [], "x": NaN}',
            b"\xff\xfe",
        )
        return Planned("unreadable", request_bytes("/v1/score", rng.choice(bodies)), (400, 422))

    def _not_loaded(self, rng: Random, name: str) -> Planned:
        items = self._items(rng, name)
        return Planned("judge not loaded", _request(items, UNLOADABLE), (503,))


class _Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str, int]]:
        return os.open, (str(self._file), os.O_CREAT)


def _body(items: Sequence[dict[str, Any]], judge: str = JUDGE) -> dict[str, Any]:
    return {"judges": [judge], "items": list(items)}


def _request(items: Sequence[dict[str, Any]], judge: str = JUDGE) -> bytes:
    return request_bytes("/v1/score", json.dumps(_body(items, judge)).encode())


def _planned(kind: str, items: Sequence[dict[str, Any]], fails: int | None = None) -> Planned:
    return Planned(
        kind,
        _request(items),
        ids=[item["id"] for item in items],
        fails=[i == fails for i in range(len(items))],
    )


def _declared(request: bytes, length: int) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    actual = f"Content-Length: {len(body)}".encode()
    return head.replace(actual, f"Content-Length: {length}".encode()) + b"\r\n\r\n" + body


@cache
def _noise(side: int, seed: int) -> np.ndarray:
    return picture(side, seed)


@cache
def _flat_png(width: int, height: int, rows: int | None = None) -> bytes:
    """A black PNG; ``rows`` of it are there, all by default."""

    def chunk(name: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)

    pixels = zlib.compress(bytes((3 * width + 1) * (rows or height)), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@cache
def _broken_candidates() -> list[list[dict[str, Any]]]:
    """Candidates that no judge of images can score."""
    png, jpeg, npy = (encode(_noise(64, 0), kind) for kind in ("png", "jpeg75", "npy"))
    floats = io.BytesIO()
    np.save(floats, np.full((8, 8, 3), np.nan, np.float32))
    objects = io.BytesIO()
    np.save(objects, np.array([_Trap(Path("/nowhere"))], object), allow_pickle=True)
    images = [png[: len(png) // 2], jpeg[:300], png[:20], b"no image at all", bytes(1000), b""]
    arrays = [npy[:-1], npy[:50], floats.getvalue(), objects.getvalue(), png]
    media: list[dict[str, Any]] = [{"image": base64_text(file)} for file in images]
    media += [{"npy": base64_text(file), "layout": "HWC"} for file in arrays]
    media += [{"npy": base64_text(npy), "layout": "THWC"}, {"npy": base64_text(npy)}]
    media += [
        {"image": text} for text in ("/etc/passwd", "http://127.0.0.1/x.png", "%%%", "part:x")
    ]
    media += [{"video": base64_text(png)}, {"frames": [base64_text(png)] * 2}, {"text": "a cat"}]
    media += [{"image": base64_text(png), "text": "a cat"}, {"image": 5}, {}]
    both = [{"image": base64_text(png)}, {"image": base64_text(jpeg)}]
    return [[], both, *([medium] for medium in media)]
