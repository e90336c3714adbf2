"""A reward server in a thread, on a free port."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from unified_reward.serve.app import create_app
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import JudgeReference, LocalHost
from unified_reward.serve.metrics import Metrics


@contextmanager
def serving(judges, *, waits=True, **settings):
    """Serve judges by name, opened ones or references; yields the URL, when all are there."""
    config = ServeConfig(port=0, **settings)
    metrics = Metrics()
    references = [JudgeReference(k, one) for k, one in judges.items() if isinstance(one, str)]
    host = LocalHost(references, config, metrics)
    for name, judge in judges.items():
        if not isinstance(judge, str):
            host.add(name, judge)
    with running(create_app(host, config, metrics)) as url:
        until(lambda: not waits or "loading" not in host.states().values())
        yield url


@contextmanager
def running(app):
    """Run an application; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, http="h11", log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def until(condition, seconds=30):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
