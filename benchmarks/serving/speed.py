"""Rewards per second and latency of our server beside published patterns and the plain call."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.serving import scorers
from benchmarks.serving.load import drive, ratios
from benchmarks.serving.processes import ServerProcess
from benchmarks.serving.wires import Ours, PublishedJson, PublishedPickle, Traffic, Wire


IN_PROCESS = "in process"
PUBLISHED = ("published json", "published pickle")
_WARM_UP_S = 0.3


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        scorer: One of `scorers.SIZES`.
        side: Width and height of the pictures.
        formats: Formats in which ours gets them; the published get JPEG 75.
        clients: Numbers of clients.
        groups: Numbers of pictures per request.
        seconds: Time of a run, in which clients begin requests.
        repeats: Rounds in which every way runs once.
        cached: Whether equal groups sent again and again are a way too.
    """

    scorer: str
    side: int
    formats: Sequence[str]
    clients: Sequence[int]
    groups: Sequence[int]
    seconds: float
    repeats: int
    cached: bool


@dataclass
class _Way:
    wire: Wire
    server: ServerProcess
    traffic: Traffic


class _InProcess:
    """The process in which the judge is called; see `benchmarks.serving.in_process`."""

    def __init__(self, reference: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.in_process", reference],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> _InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, plan: Plan, kind: str, group: int, n: int) -> dict[str, float]:
        """Figures over about n pictures."""
        assert self.process.stdin
        assert self.process.stdout
        order = {"side": plan.side, "kind": kind, "group": group, "requests": max(1, n // group)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def our_server(references: Sequence[str], *options: str, **process: object) -> ServerProcess:
    """``unified-reward serve`` as users start it."""
    judges = [item for reference in references for item in ("--judge", reference)]
    command = ["-m", "unified_reward", "serve", *judges, "--port", "{port}", *options]
    return ServerProcess(command, **process)


def measure(plan: Plan) -> list[dict]:
    """A row for every number of clients and pictures per request."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        reference = scorers.build(plan.scorer, Path(folder))
        ours = stack.enter_context(our_server([reference]))
        ways = {}
        for kind in plan.formats:
            ways[f"ours, {kind}"] = _Way(Ours(kind), ours, Traffic(plan.side, kind))
        if plan.cached:
            kind = plan.formats[0]
            equal = Traffic(plan.side, kind, fresh=False)
            ways[f"ours, {kind}, equal requests"] = _Way(Ours(kind), ours, equal)
        for name, wire in zip(PUBLISHED, (PublishedJson(), PublishedPickle()), strict=True):
            script = ["-m", "benchmarks.serving.patterns", name.split()[-1], reference, "{port}"]
            server = stack.enter_context(ServerProcess(script))
            ways[name] = _Way(wire, server, Traffic(plan.side, "jpeg75"))
        plain = stack.enter_context(_InProcess(reference))
        for way in ways.values():
            way.server.await_first_answer(way.wire, way.traffic)
        cells = [(clients, group) for group in plan.groups for clients in plan.clients]
        return [_cell(plan, ways, plain, clients, group) for clients, group in cells]


def _cell(plan: Plan, ways: dict[str, _Way], plain: _InProcess, clients: int, group: int) -> dict:
    """All ways by turns, the plain call among them."""
    runs: dict[str, list[dict]] = {name: [] for name in ways}
    in_process: dict[str, list[dict]] = {f"ours, {kind}": [] for kind in plan.formats}

    def run(name: str, seconds: float) -> dict[str, float]:
        way = ways[name]
        before = way.server.cpu_s
        clients_run = drive(way.wire, way.server.port, way.traffic, clients, group, seconds)
        figures = asyncio.run(clients_run).figures(way.wire, group)
        spent = way.server.cpu_s - before
        return figures | {"cpu_ms_per_reward": 1000 * spent / (group * figures["requests"])}

    for name in ways:
        run(name, min(_WARM_UP_S, plan.seconds))
    for name in in_process:
        plain.run(plan, name.split()[-1], group, group)
    for turn in range(plan.repeats):
        names = [*ways]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(run(name, plan.seconds))
            if name in in_process:
                n = round(runs[name][-1]["rewards_per_s"] * plan.seconds)
                in_process[name].append(plain.run(plan, name.split()[-1], group, n))
    return {"clients": clients, "group": group} | _report(runs, in_process)


def _report(runs: dict[str, list[dict]], in_process: dict[str, list[dict]]) -> dict:
    plain = {f"{IN_PROCESS}, {name.split()[-1]}": of_way for name, of_way in in_process.items()}
    of_ways = {
        name: {key: round(median(each[key] for each in of_way), 2) for key in of_way[0]}
        for name, of_way in (runs | plain).items()
    }

    def rates(of_way: list[dict]) -> list[float]:
        return [each["rewards_per_s"] for each in of_way]

    over = {}
    for name in (name for name in runs if name not in PUBLISHED):
        own = rates(runs[name])
        over[name] = {other: ratios(own, rates(runs[other])) for other in PUBLISHED}
        if name in in_process:
            over[name][IN_PROCESS] = ratios(own, rates(in_process[name]))
    spread = {
        name: row["p95_ms"] / row["p50_ms"] for name, row in of_ways.items() if "p95_ms" in row
    }
    return {"ways": of_ways, "ratio": over, "p95_over_p50": spread}


_COLUMNS = {
    "rewards_per_s": ("rewards/s", 1),
    "p50_ms": ("p50 ms", 1),
    "p95_ms": ("p95 ms", 1),
    "cpu_ms_per_reward": ("cpu ms", 2),
    "refused": ("refused", 0),
}


def table(rows: Sequence[dict]) -> str:
    """The report for people."""
    heads = "".join(f"{head:>10}" for head, _ in _COLUMNS.values())
    lines = []
    for row in rows:
        lines.append(f"\n{row['clients']} clients, {row['group']} pictures per request")
        lines.append(f"{'':<30}{heads}   ratio (least-largest)")
        for name, way in row["ways"].items():
            figures = "".join(
                f"{way[key]:10.{digits}f}" if key in way else " " * 10
                for key, (_, digits) in _COLUMNS.items()
            )
            over = "; ".join(
                f"{each['median']:.2f} ({each['least']:.2f}-{each['largest']:.2f}) x {other}"
                for other, each in row["ratio"].get(name, {}).items()
            )
            lines.append(f"{name:<30}{figures}   {over}")
    return "\n".join(lines)
