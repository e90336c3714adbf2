"""Server processes: started, awaited until they answer, measured, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving.http import Connection, request_bytes
from benchmarks.serving.wires import Traffic, Wire


START_S = 180


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process (Linux)."""
    behind_name = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(behind_name[11]) + int(behind_name[12])) / os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """A process that serves on a port of the loopback, ended at the end of a ``with`` block.

    Args:
        arguments: Of Python; ``{port}`` stands for the port.
        wrapper: A command that runs Python, such as ``prlimit``.
        stderr: Where its log goes; a file descriptor or file.
        environment: Variables beside those of this process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        wrapper: Sequence[str] = (),
        stderr: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        command = [item.replace("{port}", str(self.port)) for item in arguments]
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, *command],
            stdout=stderr,
            stderr=stderr,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        )

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End it as an operator does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def await_first_answer(self, wire: Wire, traffic: Traffic) -> None:
        """Ask until there is a reward.

        Raises:
            RuntimeError: The process ended, or there was no reward for three minutes.
        """
        body = request_bytes(
            wire.path, wire.body(*traffic.take(1)), wire.content_type, keep_alive=False
        )

        async def attempt() -> int:
            connection = Connection(self.port)
            try:
                return (await connection.ask(body)).status
            except (OSError, asyncio.IncompleteReadError):
                return 0
            finally:
                connection.close()

        deadline = time.monotonic() + START_S
        while (status := asyncio.run(attempt())) != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.process.args} does not serve: status {status}, exit status "
                    f"{self.process.poll()}"
                )
            time.sleep(0.1)

    @property
    def cpu_s(self) -> float:
        """Processor time of all its threads (Linux)."""
        return cpu_s(self.process.pid)

    @property
    def rss_mib(self) -> float:
        """Resident memory (Linux)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
