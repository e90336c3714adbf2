"""Rewards that end in the middle of a run: a server that is killed, a function that raises."""

import re
import subprocess
import sys

import pytest

from tests.unified_reward.train.rewarded import brightness, config, pictures, train, written
from unified_reward import open_judge
from unified_reward.core.errors import ServerError
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.reward_functions import RewardFunctionError


class RewardServer:
    """A process of ``unified-reward serve`` on one port, and a reward that ends it."""

    def __init__(self):
        self.port, self.process, self.calls = "0", None, 0
        self.start()

    def start(self, *, waits=True):
        arguments = ["serve", "--judge", "r=scripted:random", "--port", self.port]
        command = [sys.executable, "-m", "unified_reward", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        if waits:
            lines = iter(self.process.stderr.readline, "")
            self.port = next(m[1] for line in lines if (m := re.search(r"on http.*:(\d+)$", line)))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def judge(self):
        judge = open_judge(f"reward+http://127.0.0.1:{self.port}/r")
        judge.client.retries = 0
        return judge


@pytest.fixture
def server():
    server = RewardServer()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_run_outlives_its_reward_server(server, tmp_path):
    """It stops where the server stays away, resumes, and waits where the server comes back."""
    pictures(tmp_path / "source")
    prompts = written(tmp_path / "prompts.jsonl", ["a red star", "a blue disc", "a cat"])
    calls = []

    def run(name, killed_at=0, restarts=False, **options):
        def light(samples):
            calls.append(1)
            if len(calls) == killed_at:
                server.kill()
                if restarts:
                    server.start(waits=False)
            return brightness(samples)

        calls.clear()
        rewards = {"light": light, "judge": server.judge()}
        settings = config(4, **options)
        return train_pipeline(tmp_path / "source", prompts, rewards, settings, tmp_path / name)

    whole = run("whole")
    with pytest.raises(ServerError, match=r"judge: no answer from .*resume from .*000001\.pt"):
        run("killed", killed_at=2, patience_s=0.5)
    server.start()
    resumed = run("killed", killed_at=2, restarts=True)
    assert resumed == whole
    assert sum(whole["failed"]) == 0


def test_a_function_that_raises_stops_a_run_that_resumes(tmp_path):
    prompts = written(tmp_path / "prompts.jsonl", ["a red star", "a blue disc"])
    given = (pictures(tmp_path / "source"), prompts)
    whole, _ = train(*given, tmp_path / "whole", config(2))
    values = iter([brightness])

    def reward(samples):
        return next(values)(samples)

    message = r"reward failed: StopIteration.*; resume from .*000001\.pt"
    with pytest.raises(RewardFunctionError, match=message):
        train(*given, tmp_path / "stopped", config(2), reward)
    assert train(*given, tmp_path / "stopped", config(2))[0] == whole
