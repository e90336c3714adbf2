"""Closed-loop clients: each sends a request, waits for its answer and sends the next."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.serving.http import Answer, Connection, request_bytes
from benchmarks.serving.wires import Traffic, Wire, count_rewards


@dataclass
class Load:
    """Times and answers of one run of clients."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from sending a request to its whole answer."""
    answers: list[Answer] = field(default_factory=list)
    refused: int = 0
    """Answers 429 and 503, after whose ``Retry-After`` the request was sent again."""

    def figures(self, wire: Wire, group: int) -> dict[str, float]:
        """Rewards per second and latencies in milliseconds.

        Raises:
            RuntimeError: An answer lacks a reward, so that the figures would mean nothing.
        """
        for answer in self.answers:
            if answer.status != 200 or count_rewards(wire, answer.body) != group:
                raise RuntimeError(f"{wire} was answered {answer.status} {answer.body[:500]!r}")
        p50, p95 = np.percentile(self.latencies, [50, 95]) * 1000
        return {
            "rewards_per_s": group * len(self.answers) / self.seconds,
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "requests": len(self.answers),
            "refused": self.refused,
        }


async def drive(
    wire: Wire, port: int, traffic: Traffic, clients: int, group: int, seconds: float
) -> Load:
    """Let clients ask until the time is over and all have their last answer."""
    load = Load()
    start = time.perf_counter()

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < start + seconds:
            body = wire.body(*traffic.take(group))
            request = request_bytes(wire.path, body, wire.content_type, keep_alive=wire.keep_alive)
            begin = time.perf_counter()
            while (answer := await connection.ask(request)).status in (429, 503):
                load.refused += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
            load.answers.append(answer)
            load.latencies.append(time.perf_counter() - begin)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Ratios of runs made by turns: median, least and largest.

    >>> ratios([3.0, 8.0, 6.0], [1.0, 2.0, 3.0])
    {'median': 3.0, 'least': 2.0, 'largest': 4.0}
    """
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": median(each), "least": min(each), "largest": max(each)}
