"""Run an application: address, signals, and an orderly end. Knows no routes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from unified_reward.core.errors import ConfigError


DRAIN_S = 60
"""Longest time for requests that are being answered when the server is stopped."""


def run(app: FastAPI, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serve an application until a signal ends it; requests in work are answered.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        on_start: Called with the URL when requests are accepted.

    Raises:
        ConfigError: The address cannot be used.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises a signal again when it has ended, and an orderly end is no failure.
        signal.signal(number, _ignore)
    asyncio.run(_serve(app, host, port, on_start))


def _ignore(_: int, __: object) -> None:
    pass


async def _serve(app: FastAPI, host: str, port: int, on_start: Callable[[str], None]) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            http="h11",  # httptools takes headers of any size from anybody into memory
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    serving = asyncio.create_task(_serve_until_stopped(server))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    sockets = server.servers[0].sockets if server.started else ()
    if sockets:  # none is left if a signal came before
        name = f"[{host}]" if ":" in host else host
        on_start(f"http://{name}:{sockets[0].getsockname()[1]}")
    await serving


async def _serve_until_stopped(server: uvicorn.Server) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # in place of an OSError; loops do not pass it on in order
        at = f"--host {server.config.host} --port {server.config.port}"
        raise ConfigError(f"{at}: the server cannot start: {error.__context__}") from error
