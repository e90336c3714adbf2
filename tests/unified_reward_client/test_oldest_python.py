"""The one file works in the oldest Python, without torch, transformers or the library."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import unified_reward_client
from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.running import serving


OLDEST = (3, 9)
SCRIPT = """
import asyncio, sys
import numpy as np
import unified_reward_client as urc

class Tensor:  # as torch's, which is not there
    dtype, mode = "torch.float32", print
    def __init__(self, array): self.array, self.ndim = array, array.ndim
    def detach(self): return self
    def cpu(self): return self
    def numpy(self): return self.array

client = urc.RewardClient(sys.argv[1])
client.wait_ready(10)
grey = [np.full((4, 5, 3), value, np.uint8) for value in (10, 200)]
items = [urc.Item("a", [grey[0]]), urc.Item("a", [Tensor(grey[1].transpose(2, 0, 1) / 255.0)])]
items += [urc.Item("a", [b"no image"]), urc.Item("nan", [grey[0]])]
for image_format in ("npy", "png"):
    rewards = urc.RewardClient(sys.argv[1], image_format=image_format).score("brightness", items)
    assert [each.value for each in rewards] == [10.0, 200.0, None, None], rewards
rewards = urc.RewardSet([urc.RewardTerm("brightness"),
                         urc.RewardTerm("brightness", form="win_rate", name="wins")])
assert rewards.score(client, items[:2]).values == [-2.0, 2.0]
compute = urc.verl_omni_compute_score(
    client, urc.RewardSet([urc.RewardTerm("brightness")], aggregate="sum", on_failure="raise"))
assert asyncio.run(compute("", grey[0].transpose(2, 0, 1), "a"))["score"] == 10.0
assert not {"torch", "transformers", "unified_reward", "PIL"} & set(sys.modules)
print("answered by", sys.version.split()[0])
"""


def pythons():
    """Interpreters of version 3.9 to 3.11 by version."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    folders += Path.home().glob(".pyenv/versions/*/bin")
    found = {}
    for folder in folders:
        for path in folder.glob("python3.*"):
            version = re.fullmatch(r"python3\.(\d+)", path.name)
            if version and OLDEST[1] <= int(version[1]) <= 11 and "shims" not in path.parts:
                found.setdefault(int(version[1]), path)
    return found


@pytest.mark.slow
def test_the_file_alone_talks_to_a_server_from_the_oldest_python(tmp_path):
    found = pythons()
    if not found:
        pytest.skip("there is no Python 3.9 to 3.11 beside this one")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([found[min(found)], "-m", "venv", tmp_path / "venv"], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "numpy"],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"numpy cannot be installed: {installed.stderr[-300:]}")
    source = Path(unified_reward_client.__file__).read_text("utf-8")
    (tmp_path / "unified_reward_client.py").write_text(source, "utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with serving({"brightness": Brightness()}) as url:
        done = subprocess.run(
            [python, "script.py", url],
            cwd=tmp_path,
            env=bare,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"answered by 3.{min(found)}.")
