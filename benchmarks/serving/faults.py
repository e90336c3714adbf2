"""Faults under load: one answer for every client that stays, no number for what failed."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import signal
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.serving import scorers
from benchmarks.serving.hostile import JUDGE, SHARES, UNLOADABLE, Planned, Requests
from benchmarks.serving.http import Answer, Connection
from benchmarks.serving.processes import ServerProcess
from benchmarks.serving.speed import our_server
from benchmarks.serving.wires import Ours, Traffic


ANSWER_S = 120
LOG_BYTES = 65_536
"""Size of the largest file that the server may write: its log and temporary files meet a disk
that is full."""
GROWTH = 1.1
"""Resident memory after all requests over that after a fifth of them."""


class Tally:
    """Counts of answers, and the first few that are wrong."""

    def __init__(self) -> None:
        self.kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.wrong: list[str] = []
        self.refused = 0

    def note(self, planned: Planned, outcome: str, detail: object = "") -> None:
        """Count a request by its outcome: ok, left, or what is wrong."""
        self.kinds[planned.kind][outcome] += 1
        if outcome not in ("ok", "left", "failed with a reason") and len(self.wrong) < 20:
            self.wrong.append(f"{planned.kind}, {outcome}: {detail}"[:600])

    def total(self, outcome: str) -> int:
        """Requests of all kinds with an outcome."""
        return sum(outcomes[outcome] for outcomes in self.kinds.values())


def _rows(planned: Planned, answer: Answer) -> list[tuple[str, Any, Any]]:
    """Id, number and reason of each row of an answer."""
    if planned.is_pickle:
        # From the benchmark's own server, which is ours.
        values = pickle.loads(answer.body)["outputs"]  # noqa: S301
        return [(name, value, "") for name, value in zip(planned.ids, values, strict=True)]
    rows = json.loads(answer.body)["results"][JUDGE]
    return [(row["id"], row["value"], row["reason"]) for row in rows]


def outcome(planned: Planned, answer: Answer, *, killed: bool = False) -> str:
    """``ok``, or what is wrong with an answer.

    Args:
        planned: The request.
        answer: Its answer.
        killed: Whether a judge was killed, so that any item may fail with a reason.
    """
    if answer.status not in planned.statuses:
        if killed and answer.status == 503:
            return "failed with a reason"
        return "wrong status"
    if answer.status != 200:
        return "ok" if b"error" in answer.body else "no reason"
    rows = _rows(planned, answer)
    if [name for name, _, _ in rows] != list(planned.ids):
        return "answer of another request"
    result = "ok"
    for (_, value, reason), fails in zip(rows, planned.fails, strict=True):
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if fails and value is not None:
            return "number for a failure"
        if not is_number and not (value is None and reason):
            return "no reason"
        if not is_number and not fails:
            result = "failed with a reason" if killed else "failure without a fault"
    return result


class Clients:
    """Clients that share a sequence of requests."""

    def __init__(self, server: ServerProcess, requests: Requests) -> None:
        self._port = server.port
        self._requests = requests
        self._numbers = count()
        self.tally = Tally()
        self.killed = False
        self.n_done = 0

    async def run(self, upto: int, clients: int) -> None:
        """Send requests up to a number, each client one after another."""

        async def client() -> None:
            connection = Connection(self._port)
            while (number := next(self._numbers)) < upto:
                await self._ask(connection, self._requests.make(number))
                self.n_done += 1
            connection.close()

        await asyncio.gather(*(client() for _ in range(clients)))
        self._numbers = count(upto)

    async def _ask(self, connection: Connection, planned: Planned) -> None:
        if planned.cut is not None:
            await self._leave(planned)
            return
        try:
            answer = await asyncio.wait_for(self._answer(connection, planned), ANSWER_S)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.tally.note(planned, "unanswered", repr(error))
            connection.abort()
            return
        if planned.is_cut_short:
            connection.abort()
        if extra := await connection.extra():
            self.tally.note(planned, "doubled", extra)
            connection.close()
            return
        result = outcome(planned, answer, killed=self.killed)
        self.tally.note(planned, result, (answer.status, answer.body[:400]))

    async def _answer(self, connection: Connection, planned: Planned) -> Answer:
        while True:
            answer = await connection.ask(planned.request)
            again = answer.headers.get("retry-after")
            if again is None or answer.status in planned.statuses:
                return answer
            self.tally.refused += 1
            await asyncio.sleep(float(again))

    async def _leave(self, planned: Planned) -> None:
        """Go away within a request, or without waiting for its answer."""
        connection = Connection(self._port)
        with suppress(OSError):
            _, writer = await connection.open()
            writer.write(planned.request[: planned.cut])
            await writer.drain()
        (connection.abort if planned.cut % 2 else connection.close)()
        self.tally.note(planned, "left")


def descendants(pid: int) -> list[int]:
    """Processes that a process began, and those that they began (Linux)."""
    children = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            behind_name = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
            children[int(behind_name[1])].append(int(folder.name))
    result = [pid]
    for one in result:
        result += children[one]
    return result[1:]


def kill_judge(server: ServerProcess) -> str:
    """End one process of a judge at once, and return its title."""
    for pid in descendants(server.process.pid):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if title.startswith("ray::") and JUDGE in title:
                os.kill(pid, signal.SIGKILL)
                return title.strip()
    raise RuntimeError("the server has no process of a judge")


async def _run(
    clients: Clients, server: ServerProcess, n: int, n_clients: int, *, kill: bool
) -> dict[str, Any]:
    marks = [n // 5, *(n * i // 5 for i in range(2, 6))]
    memory, killed = {}, None
    for upto in marks:
        if kill and upto == marks[2]:
            running = asyncio.ensure_future(clients.run(upto, n_clients))
            while clients.n_done < (marks[1] + marks[2]) // 2:
                await asyncio.sleep(0.01)
            clients.killed = True
            killed = kill_judge(server)
            await running
        else:
            await clients.run(upto, n_clients)
        memory[upto] = round(server.rss_mib, 1)
    return {"rss_mib": memory, "killed": killed}


def run(n: int, n_clients: int, seed: int, engine: str, log: Path | None = None) -> dict[str, Any]:
    """Send n requests and report; ``broken`` names what does not hold.

    Args:
        n: Number of requests.
        n_clients: Clients that send them.
        seed: Seed of the mixture.
        engine: ``local`` or ``ray``.
        log: File for the server's log; the server's files are then not bounded.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scorer").mkdir()
        reference = f"{JUDGE}={scorers.build('tiny', folder / 'scorer')}"
        absent = f"{UNLOADABLE}=pickscore:{folder / 'absent'}"
        options = ["--accept-pickle"]
        if engine == "ray":
            options += ["--engine", engine, "--replicas", f"{JUDGE}=2", "--cpus", "0.5"]
        limit = ["prlimit", f"--fsize={LOG_BYTES}"] if engine == "local" and not log else []
        log = log or folder / "log"
        with (
            log.open("wb") as stream,
            our_server(
                [reference, absent], *options, wrapper=limit, stderr=stream.fileno()
            ) as server,
        ):
            requests = Requests(folder, seed)
            server.await_first_answer(Ours("png", judge=JUDGE), Traffic(64, "png"))
            clients = Clients(server, requests)
            start = time.perf_counter()
            kill = engine == "ray"
            report = asyncio.run(_run(clients, server, n, n_clients, kill=kill))
            report["seconds"] = round(time.perf_counter() - start, 1)
            report["exit_status"] = server.stop()
        report["log_bytes"] = log.stat().st_size
        report["unpickled"] = requests.trap.exists()
    return report | _verdict(clients.tally, report, n)


def _verdict(tally: Tally, report: dict[str, Any], n: int) -> dict[str, Any]:
    first, *_, last = report["rss_mib"].values()
    right = ("ok", "left", "failed with a reason")
    wrong = {name for outcomes in tally.kinds.values() for name in outcomes if name not in right}
    broken = [f"{tally.total(name)} requests: {name}" for name in sorted(wrong)]
    if last > GROWTH * first:
        broken.append(f"memory grew from {first} to {last} MiB")
    if report["unpickled"]:
        broken.append("a pickle was run")
    if report["exit_status"] != 0:
        broken.append(f"exit status {report['exit_status']}")
    if (counted := sum(map(Counter.total, tally.kinds.values()))) != n:
        broken.append(f"{counted} of {n} requests are accounted for")
    kinds = {kind: dict(tally.kinds[kind]) for kind in ("sound", *SHARES)}
    return {
        "requests": n,
        "kinds": kinds,
        "refused": tally.refused,
        "wrong": tally.wrong,
        "broken": broken,
    }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['requests']} requests in {report['seconds']} s, {report['refused']} times 429"
    ]
    for kind, outcomes in report["kinds"].items():
        lines.append(f"{kind:<20}" + ", ".join(f"{n} {name}" for name, n in outcomes.items()))
    memory = ", ".join(f"{n}: {mib}" for n, mib in report["rss_mib"].items())
    lines.append(f"MiB resident after requests: {memory}; log of {report['log_bytes']} bytes")
    if report["killed"]:
        lines.append(f"killed: {report['killed']}")
    lines += report["wrong"]
    lines.append(
        "BROKEN: " + "; ".join(report["broken"]) if report["broken"] else "all as it must be"
    )
    return "\n".join(lines)
