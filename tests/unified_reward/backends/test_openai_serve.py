"""A judge behind a real server: ``transformers serve`` with a random tiny checkpoint."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import PIL.Image
import pytest

import unified_reward as ur
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed
from unified_reward_lab.microworld import make_example


MISSING = [item for item in ("fastapi", "uvicorn", "openai", "multipart") if not find_spec(item)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}"),
]
START_S = 90


class Server:
    def __init__(self, process, url, model, log):
        self.process, self.url, self.model, self._log = process, url, model, log

    def wait_for_answers(self, n):
        end = time.monotonic() + START_S
        while self._log.read_text().count("POST /v1/chat/completions") < n:
            assert time.monotonic() < end, self._log.read_text()[-2000:]
            time.sleep(0.01)


@contextlib.contextmanager
def serving(model, home):
    """Its own HF_HOME, in which the folder of the hub must stand before models are listed."""
    (home / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "info"]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = home / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [command, "serve", str(model), *options], env=environment, stdout=file, stderr=file
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
        yield Server(process, f"http://127.0.0.1:{port}/v1", str(model), log)
    finally:
        process.kill()
        process.wait(20)


def wait_until_healthy(process, url, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).is_success:
                return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(checkpoints, tmp_path_factory):
    with serving(checkpoints["qwen3_vl"], tmp_path_factory.mktemp("home")) as running:
        yield running


def questions(i):
    pixels = np.random.default_rng(i).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    return Request((PIL.Image.fromarray(pixels), f"number {i}, say"), max_new_tokens=6)


def test_answers_to_pictures_come_back_in_order(server):
    """Asked together and one by one, each request gets its own answer."""
    model = OpenAIModel(server.url, model=server.model, options=OpenAIOptions(max_concurrency=2))
    requests = [questions(i) for i in range(6)]
    together = model.generate(requests)
    alone = [model.generate([item])[0] for item in requests]
    assert all(isinstance(item, Answer) for item in together)
    assert [item.text for item in together] == [item.text for item in alone]
    assert len({item.text for item in together}) > 1


def test_the_served_text_is_that_of_the_local_checkpoint(server, checkpoints):
    from unified_reward.backends.hf_vlm import load_vlm

    local = load_vlm(checkpoints["qwen3_vl"], device="cpu").generate([questions(0)])[0]
    served = OpenAIModel(server.url, model=server.model).generate([questions(0)])[0]
    assert served.text == local.text.strip()


def test_a_judge_asks_pictures_and_clips_through_it(server):
    """Answers of random weights cannot be read: they are unparsed, and none has failed."""
    judge = ur.open_judge(server.url, model=server.model, family="compact")
    samples = [
        make_example(task, form, split="test", seed=0, index=0).sample
        for task in (Task.IMAGE_GENERATION, Task.VIDEO_UNDERSTANDING)
        for form in ("score", "compare")
    ]
    verdicts = judge.ask(samples)
    assert len(verdicts) == 4
    assert not [item for item in verdicts if isinstance(item, Failed)]
    assert all(isinstance(item, Unparsed | Scored | Preferred) for item in verdicts)
    assert all(item.text for item in verdicts if isinstance(item, Unparsed))


def test_a_server_killed_on_the_way_fails_the_rest_and_loses_none(checkpoints, tmp_path):
    with serving(checkpoints["qwen3_vl"], tmp_path / "home") as server:
        options = OpenAIOptions(max_concurrency=1, retries=0, timeout_s=60)
        model = OpenAIModel(server.url, model=server.model, options=options)
        n = 60
        answers = []
        worker = Thread(
            target=lambda: answers.extend(model.generate([questions(i) for i in range(n)]))
        )
        worker.start()
        server.wait_for_answers(3)
        server.process.kill()
        worker.join(120)
        after = model.generate([questions(0)])
    kinds = [type(item) for item in answers]
    n_answered = kinds.count(Answer)
    assert 2 <= n_answered < n
    assert kinds == [Answer] * n_answered + [Failed] * (n - n_answered)
    assert "lost or refused the connection" in answers[-1].error
    assert isinstance(after[0], Failed)
