import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.requests import item, request
from tests.unified_reward.serve.running import running, until
from unified_reward.core.errors import ConfigError
from unified_reward.serve.app import create_app
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import JudgeReference
from unified_reward.serve.metrics import Metrics
from unified_reward.serve.ray_host import ATTEMPTS, Placement, RayHost, placements
from unified_reward.serve.server import run


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve
on_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
ODD = "org/judge #1"
START_S = 120


class Recorded(Brightness):
    """Leaves a file named by its process for each batch, and waits while its folder is closed."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def ask(self, samples, *, orders=2, on_progress=None):
        closed = list(self.folder.glob("*.closed"))
        (self.folder / f"{os.getpid()}_{time.monotonic_ns()}").touch()
        until(lambda: not any(file.exists() for file in closed), START_S)
        return super().ask(samples, orders=orders, on_progress=on_progress)


@dataclass(frozen=True)
class RecordedReference(JudgeReference):
    folder: Path = Path()

    def open(self):
        return Recorded(self.folder)


class Folder:
    """The folder of a recorded judge."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def close(self):
        for file in self.path.iterdir():
            file.unlink()
        (self.path / f"{time.monotonic_ns()}.closed").touch()

    def open(self):
        for file in self.path.glob("*.closed"):
            file.unlink()

    def processes(self):
        """Processes that began a batch since the folder was closed."""
        return {int(file.name.split("_")[0]) for file in self.path.glob("*_*")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("judges")
    return {"light": Folder(path / "light"), ODD: Folder(path / "odd")}


@pytest.fixture(scope="module")
def url(folders):
    config, metrics = ServeConfig(port=0, max_queue=100, verdict_cache=0), Metrics()
    references = [
        *(RecordedReference(name, "recorded", folder=one.path) for name, one in folders.items()),
        JudgeReference("bad", "scripted:none"),
    ]
    host = RayHost(references, {"light": Placement(replicas=2)}, config, metrics)
    with running(create_app(host, config, metrics)) as url:
        until(lambda: replicas(url, "light") == 2, START_S)
        until(lambda: "loading" not in host.states().values(), START_S)
        yield url


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def score(url, judge, *items):
    return request(f"{url}/v1/score", {"judges": [judge], "items": items}, timeout=START_S)


def values(response):
    return [row["value"] for row in next(iter(response.json()["results"].values()))]


def health(url):
    return request(f"{url}/health").json()["judges"]


def replicas(url, name):
    judges = {one["name"]: one for one in request(f"{url}/v1/judges").json()["judges"]}
    return judges[name]["replicas"]["running"]


@pytest.mark.slow
@on_ray
def test_a_replica_that_is_killed_under_load_costs_no_answer(url, folders, pool):
    light = folders["light"]
    light.close()
    waiting = [pool.submit(score, url, "light", item(i, prompt=f"p{i}")) for i in range(200)]
    until(lambda: len(light.processes()) == 2)
    os.kill(min(light.processes()), signal.SIGKILL)
    light.open()
    assert [values(one.result()) for one in waiting] == [[i] for i in range(200)]

    def has_a_new_process():
        assert values(score(url, "light", item(7, prompt=str(time.monotonic())))) == [7]
        return len(light.processes()) == 3

    until(has_a_new_process, START_S)
    until(lambda: replicas(url, "light") == 2, START_S)
    figures = request(f"{url}/metrics").text
    assert 'pending_samples{judge="light"} 0.0' in figures
    assert 'unified_reward_batch_samples_count{judge="light"}' in figures


@pytest.mark.slow
@on_ray
def test_a_judge_whose_only_replica_is_killed_loads_again_and_answers(url, folders, pool):
    odd = folders[ODD]
    odd.close()
    waiting = pool.submit(score, url, ODD, item(1), item(2))
    until(odd.processes)
    os.kill(odd.processes().pop(), signal.SIGKILL)
    until(lambda: health(url)[ODD] == "loading")
    refused = score(url, ODD, item(3))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    odd.open()
    assert values(waiting.result()) == [1, 2]
    until(lambda: health(url)[ODD] == "ready")


@pytest.mark.slow
@on_ray
def test_a_full_queue_refuses_and_a_client_that_hangs_up_frees_its_places(url, folders, pool):
    odd = folders[ODD]
    odd.close()
    body = json.dumps({"judges": [ODD], "items": [item(i) for i in range(90)]}).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        leaving.sendall(head % len(body) + body)
        until(odd.processes)
        refused = score(url, ODD, *(item(i) for i in range(20)))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["message"].startswith(f"{ODD} has 90 samples")
    tries = []

    def is_accepted():
        tries.append(pool.submit(score, url, ODD, *(item(i) for i in range(20))))
        return not wait(tries[-1:], 1).done

    until(is_accepted)
    odd.open()
    assert values(tries[-1].result()) == list(range(20))
    assert {one.result().status_code for one in tries[:-1]} <= {429}


@pytest.mark.slow
@on_ray
def test_an_item_without_a_verdict_in_time_fails(url, folders):
    folders[ODD].close()
    late = request(f"{url}/v1/score", {"judges": [ODD], "items": [item(1)], "timeout_s": 0.1})
    folders[ODD].open()
    assert values(late) == [None]
    assert "no verdict within 0.1 s" in late.text


@pytest.mark.slow
@on_ray
def test_a_judge_that_cannot_be_loaded_is_named_beside_the_others(url):
    assert health(url) == {"light": "ready", ODD: "ready", "bad": "failed"}
    roster = {one["name"]: one for one in request(f"{url}/v1/judges").json()["judges"]}
    assert roster["bad"]["reason"].startswith("there is no scripted model 'none'")
    assert roster[ODD]["family"] == "brightness"
    body = {"judges": ["light", "bad"], "items": [item(7, prompt="raise"), item(8), {"id": "x"}]}
    results = request(f"{url}/v1/score", body).json()["results"]
    assert [row["value"] for row in results["light"]] == [None, 8, None]
    assert {row["status"] for row in results["bad"]} == {"failed"}
    assert request(f"{url}/v1/score", body | {"judges": ["no"]}).status_code == 404


@pytest.mark.slow
@on_ray
def test_a_question_that_ends_every_replica_fails_after_a_few():
    from ray.exceptions import ActorDiedError

    class Handle:
        calls = 0

        @property
        def ask(self):
            return self

        async def remote(self, *_):
            self.calls += 1
            raise ActorDiedError

    host = RayHost([JudgeReference("a", "scripted:first")], {}, ServeConfig(), Metrics())
    handle = host._deployed["a"].handle = Handle()
    host._deployed["a"].state = "ready"
    ((failed,),) = [asyncio.run(host.ask("a", [["sample"]], orders=2, timeout_s=5))]
    assert failed.error == f"{ATTEMPTS} replicas of a ended before they answered"
    assert handle.calls == ATTEMPTS


def serve_one(folder):
    """Serve a recorded judge as the command line does, until a signal."""
    config, metrics = ServeConfig(port=0), Metrics()
    host = RayHost([RecordedReference("a", "recorded", folder=Path(folder))], {}, config, metrics)
    app = create_app(host, config, metrics)
    run(app, config.host, config.port, lambda url: sys.stderr.write(f"serving on {url}\n"))


@pytest.mark.slow
@on_ray
def test_a_signal_ends_the_server_after_the_last_answer(tmp_path):
    """Also one that comes later than Ray would wait by itself, which is three seconds."""
    folder = Folder(tmp_path / "a")
    code = f"from {__name__} import serve_one; serve_one({str(folder.path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    ) as server:
        lines = iter(server.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"on (http\S+)", line)))
        until(lambda: health(url) == {"a": "ready"}, START_S)
        folder.close()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(score, url, "a", item(1))
            until(folder.processes)
            server.terminate()
            threading.Timer(4, folder.open).start()
            assert values(waiting.result()) == [1]
        assert server.wait(60) == 0


def test_placement_of_one_judge_goes_before_that_of_all():
    references = [JudgeReference(name, "scripted:first") for name in ("a", "x=y")]
    placed = placements(references, {"replicas": ["x=y=3", "2"], "gpus": ["a=0.25"], "cpus": []})
    assert placed == {"a": Placement(2, 0.25), "x=y": Placement(3)}
    for options, message in [
        ({"replicas": ["b=1"]}, "no judge is called 'b'"),
        ({"replicas": ["0"]}, "replicas are 1 or more, not 0"),
        ({"replicas": ["1.5"]}, "NUMBER or NAME=NUMBER, not '1.5'"),
        ({"gpus": ["1.5"]}, "a share up to 1, or whole, not 1.5"),
        ({"gpus": ["nan"]}, "a share up to 1, or whole, not nan"),
        ({"cpus": ["-1"]}, "CPUs of a replica are 0 or more, not -1"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            placements(references, options)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install .*unified-reward\[ray\]'"):
        RayHost([], {}, ServeConfig(), Metrics())
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigError, match="serve on a machine of the cluster"):
        RayHost([], {}, ServeConfig(), Metrics())
