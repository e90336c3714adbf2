"""Requests of the three wires, made of a prompt and pictures, and the rewards in their answers."""

from __future__ import annotations

import base64
import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.serving.pictures import Album


class Traffic:
    """An endless supply of groups: a new prompt and new pictures each, or equal ones again.

    Args:
        side: Width and height of the pictures.
        kind: Their format.
        fresh: False for the same few groups again and again.
    """

    EQUAL = 16
    """Different groups where they are repeated."""

    def __init__(self, side: int, kind: str, *, fresh: bool = True) -> None:
        self._album = Album(side, kind)
        self._fresh = fresh
        self._made: dict[int, list[tuple[str, list[bytes]]]] = {}
        self._number = 0

    def take(self, group: int) -> tuple[str, list[bytes]]:
        """The next prompt and its pictures."""
        self._number += 1
        made = self._made.setdefault(group, [])
        if len(made) == self.EQUAL:
            return made[self._number % self.EQUAL]
        prompt = f"a photo of {self._number} red cubes on a wooden table, studio light, detailed"
        result = prompt, self._album.take(group)
        if not self._fresh:
            made.append(result)
        return result


class Wire(Protocol):
    """A way to ask a server for the rewards of the pictures of a prompt."""

    path: str
    content_type: str
    keep_alive: bool

    def body(self, prompt: str, files: Sequence[bytes]) -> bytes:
        """Body of a request."""
        ...

    def rewards(self, body: bytes) -> list[float | None]:
        """Rewards in the body of an answer, None for what failed."""
        ...


def base64_text(content: bytes) -> str:
    """Base64 as text."""
    return base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class Ours:
    """``POST /v1/score``."""

    kind: str
    judge: str | None = None
    """Name of the judge; None for the only one."""
    path: str = "/v1/score"
    content_type: str = "application/json"
    keep_alive: bool = True

    def body(self, prompt: str, files: Sequence[bytes]) -> bytes:
        """An item for each picture."""
        items = [{"prompt": prompt, "candidates": [self.medium(file)]} for file in files]
        judges = {} if self.judge is None else {"judges": [self.judge]}
        return json.dumps(judges | {"items": items}, allow_nan=False).encode()

    def medium(self, file: bytes) -> dict[str, str]:
        """A picture on the wire."""
        if self.kind == "npy":
            return {"npy": base64_text(file), "layout": "HWC"}
        return {"image": base64_text(file)}

    def rewards(self, body: bytes) -> list[float | None]:
        """Scores of the only judge."""
        (rows,) = json.loads(body)["results"].values()
        return [row["value"] for row in rows]


@dataclass(frozen=True)
class PublishedJson:
    """Flow-Factory's ``POST /compute``."""

    path: str = "/compute"
    content_type: str = "application/json"
    keep_alive: bool = True

    def body(self, prompt: str, files: Sequence[bytes]) -> bytes:
        """Lists of prompts and pictures."""
        images = [base64_text(file) for file in files]
        return json.dumps({"prompt": [prompt] * len(files), "image": images}).encode()

    def rewards(self, body: bytes) -> list[float | None]:
        """The list of rewards."""
        return json.loads(body)["rewards"]


@dataclass(frozen=True)
class PublishedPickle:
    """flow_grpo's pickle; a connection serves one request, as gunicorn's synchronous workers do."""

    path: str = "/"
    content_type: str = "application/octet-stream"
    keep_alive: bool = False

    def body(self, prompt: str, files: Sequence[bytes]) -> bytes:
        """Files and prompts."""
        return pickle.dumps({"images": list(files), "prompts": [prompt] * len(files)})

    def rewards(self, body: bytes) -> list[float | None]:
        """The list of outputs; the server is a process of this benchmark."""
        return pickle.loads(body)["outputs"]  # noqa: S301  from the benchmark's own server


def count_rewards(wire: Wire, body: bytes) -> int:
    """Finite rewards in an answer."""
    return sum(value is not None and math.isfinite(value) for value in wire.rewards(body))
