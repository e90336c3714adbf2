import signal

import pytest

from unified_reward.serve import server
from unified_reward.serve.app import create_app
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import LocalHost
from unified_reward.serve.metrics import Metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_server_starts_ends_it_in_order(number):
    class Signalled(LocalHost):
        def start(self):
            signal.raise_signal(number)

    config, metrics = ServeConfig(port=0), Metrics()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        started = []
        app = create_app(Signalled([], config, metrics), config, metrics)
        server.run(app, config.host, config.port, started.append)
        assert len(started) <= 1
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
