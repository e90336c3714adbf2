import gc
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["UNIFIED_REWARD_HOME"] = mkdtemp()  # nobody's own wordings reach the tests
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

from unified_reward.judges import registry


settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_finish():
    """Garbage collection, which each training ends with, need not go through all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ordinary_scheduling():
    """SVT-AV1 makes a process of root real-time, and with it every process started afterwards."""
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """Equal models have the same ways of asking, proven for the first of them alone."""
    with pytest.MonkeyPatch.context() as patch:
        if "unified_reward.backends.hf_vlm" in sys.modules:  # else nothing heavy is imported here
            from tests import proven

            proven.remember(patch)
        yield


class Checkpoints(dict):
    """Folders of random tiny checkpoints by architecture, each built when first needed."""

    def __init__(self, root):
        super().__init__()
        self.root = root

    def __missing__(self, name):
        from tests.architectures import ARCHITECTURES

        self[name] = ARCHITECTURES[name](self.root / name)
        return self[name]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def editing(tmp_path_factory):
    """Folders with a random tiny editing ``policy`` and ``pairs.jsonl`` each, by kind."""
    from tests.unified_reward.policies import editors
    from tests.unified_reward.train import aligned

    root = tmp_path_factory.mktemp("editing")
    with editors.small_sources():
        yield {kind: aligned.source(kind, root / kind) for kind in editors.KINDS}


@pytest.fixture(scope="session")
def shared():
    """The folder with real data; its tests are skipped where it is absent."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("UNIFIED_REWARD_SHARED", root / ".." / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set UNIFIED_REWARD_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The judge that comes with the package."""
    return registry.open_judge("tiny_judge")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; tests that need it are skipped where it or playwright is absent."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    arguments = ["--no-sandbox"] * (os.geteuid() == 0)
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=arguments)
