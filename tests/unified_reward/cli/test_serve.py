"""``unified-reward serve``: references, refusals, and an orderly end."""

import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fake_server import FakeServer, chat
from tests.unified_reward.serve.requests import item, request
from tests.unified_reward.serve.running import until


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no judge is named"),
        (["--judge", "scripted:first", "--host", "0.0.0.0"], "--token-file"),  # noqa: S104
        (
            ["--judge", "a=scripted:first", "--judge", "a=scripted:second"],
            "two judges are called a",
        ),
        (["--judge", "scripted:first", "--scale", "raw"], "NAME=PRESET"),
        (["--judge", "scripted:first", "--replicas", "2"], "--engine ray"),
        (["--judge", "scripted:first", "--token-file", "no_such_file"], "no_such_file"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(cli, arguments, message):
    code, _, error = cli("serve", *arguments)
    assert code == 2
    assert message in error


def test_a_port_in_use_ends_the_server_with_its_reason(cli, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, error = cli("serve", "--judge", "scripted:first", "--port", port)
    assert code == 2
    assert "address already in use" in error
    assert "Traceback" not in error


@pytest.fixture
def gate():
    """Holds the judge's model back until it is set."""
    return threading.Event()


@pytest.fixture
def server(gate):
    """A server in a process of its own, and its URL."""

    def respond(_):
        gate.wait(30)
        return chat("Image 1 is better.")

    with FakeServer(respond) as model:
        arguments = ["--judge", f"a={model.url}", "--judge", "b=no_such_judge", "--port", "0"]
        command = [sys.executable, "-m", "unified_reward", "serve", *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            lines = iter(process.stderr.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"on (http\S+)", line)))
            yield process, url
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_the_last_answer(server, gate, number):
    process, url = server
    until(lambda: request(f"{url}/health").json()["status"] != "loading")
    assert request(f"{url}/health").json()["judges"] == {"a": "ready", "b": "failed"}
    body = {"judges": ["a"], "items": [item(1, 2)], "orders": 1}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(request, f"{url}/v1/compare", body)
        until(lambda: 'pending_samples{judge="a"} 1.0' in request(f"{url}/metrics").text)
        process.send_signal(number)
        gate.set()
        answer = waiting.result()
    assert answer.json()["results"]["a"][0]["winner"] == "first"
    assert process.wait(30) == 0
