"""Self-tests: each installed capability on one tiny item, in seconds, without a network.

Weights are the tiny ones of the laboratory. A test that fails never stops the next.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, UnifiedRewardError, one_line
from unified_reward.core.extensions import extra, find_checkpoint, missing_hint
from unified_reward.core.quiet import quiet_warnings
from unified_reward.core.samples import Example, Image, Sample, Task, Video
from unified_reward.core.verdicts import Scored
from unified_reward.io.vote_rows import read_votes


_WAIT_S = 60.0
_SIDE = 32
_PROMPT = "a red circle"
_LOGIT_SCALE = 15.0
"""Above the factor of the cosine of an untrained CLIP, exp(2.6592)."""


@dataclass(frozen=True)
class SelfTest:
    """Outcome of one test."""

    name: str
    extra: str
    """Extra that brings the capability; empty for the base."""
    status: Literal["ok", "failed", "skipped"]
    seconds: float
    reason: str
    """Finding of the test, or why it failed or was skipped."""


class Items:
    """Tiny items of the self-tests, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._judge: BaseJudge | None = None

    @property
    def image(self) -> Path:
        """A red square on white."""
        file = self.folder / "image.png"
        file.write_bytes(media.encode_png(PIL.Image.fromarray(_square(1)[0])))
        return file

    @property
    def video(self) -> Path:
        """Four frames in which the square moves."""
        file = self.folder / "video.mp4"
        file.write_bytes(media.encode_mp4(_square(4), 4))
        return file

    @property
    def judge(self) -> BaseJudge:
        """The tiny judge on the default device, opened once."""
        from unified_reward.judges.registry import open_judge

        if self._judge is None:
            self._judge = open_judge(_tiny("tiny_judge"))
        return self._judge


class MissingPartError(UnifiedRewardError):
    """Something that a test needs is not there; it is skipped."""


def run_self_tests(
    extras: Mapping[str, str],
    devices: Mapping[str, str],
    on_done: Callable[[int], None] | None = None,
) -> list[SelfTest]:
    """Run all tests, one after another, in a folder that is removed.

    Args:
        extras: Reason that an extra is not installed, by its name; empty where it is.
        devices: Dtype to compute in on each accelerator.
        on_done: Called with 1 after each test.
    """
    with TemporaryDirectory(prefix="unified-reward-doctor-") as folder:
        items = Items(Path(folder))
        tests = [
            *((f"compute on {name}", "local", _computed(name, devices[name])) for name in devices),
            *((name, needed, partial(test, items)) for name, needed, test in TESTS),
        ]
        outcomes: list[SelfTest] = []
        for name, needed, test in tests:
            outcomes.append(run_test(name, needed, extras, test))
            if on_done:
                on_done(1)
    return outcomes


def run_test(
    name: str, needed: str, extras: Mapping[str, str], test: Callable[[], str]
) -> SelfTest:
    """Run a test; whatever it raises is its outcome.

    Args:
        name: Name of the test.
        needed: Extra that it needs; empty for the base.
        extras: Reason that an extra is not installed, by its name; empty where it is.
        test: Returns what it found. What libraries print meanwhile is dropped.
    """
    if needed and extras.get(needed, ""):
        return SelfTest(name, needed, "skipped", 0.0, extras[needed])
    start = time.perf_counter()
    try:
        silent = redirect_stdout(StringIO()), redirect_stderr(StringIO())
        with silent[0], silent[1], quiet_warnings(always=True):
            status, reason = "ok", test()
    except MissingPartError as error:
        status, reason = "skipped", str(error)
    except Exception as error:  # noqa: BLE001  of any library; the other tests are to be run
        kind = "" if isinstance(error, UnifiedRewardError) else f"{type(error).__name__}: "
        status, reason = "failed", kind + one_line(error)
    return SelfTest(name, needed, status, round(time.perf_counter() - start, 2), reason)


def _tiny(name: str) -> str:
    if find_checkpoint(name) is None:
        raise MissingPartError(f"needs {name}{missing_hint(name)}")
    return name


def _square(frames: int) -> media.Pixels:
    pixels = np.full((frames, _SIDE, _SIDE, 3), 255, np.uint8)
    for i in range(frames):
        pixels[i, 8:24, 4 + 2 * i : 20 + 2 * i] = (200, 30, 30)
    return pixels


def _computed(device: str, dtype: str) -> Callable[[], str]:
    def compute() -> str:
        with extra("local"):
            import torch

        ones = torch.ones(64, 64, device=device, dtype=getattr(torch, dtype))
        total = float((ones @ ones).float().sum().cpu())
        if total != 64.0**3:
            raise ConfigError(f"a product of ones is {total} in sum, not {64.0**3}")
        return f"a product in {dtype}"

    return compute


def _image(items: Items) -> str:
    size = media.open_image(items.image).size
    if size != (_SIDE, _SIDE):
        raise ConfigError(f"an image of {_SIDE} x {_SIDE} is decoded as {size}")
    return f"PNG, {size[0]} x {size[1]}"


def _video(items: Items) -> str:
    frames = media.sample_frames(items.video, 4).pixels
    if not np.array_equal(frames, _square(4)):
        raise ConfigError("frames of a lossless H.264 are decoded to other pixels")
    return f"H.264, {len(frames)} frames, lossless"


def _score(judge: BaseJudge, sample: Sample) -> str:
    verdict = judge.ask([sample])[0]
    if not isinstance(verdict, Scored) or verdict.score is None:
        raise ConfigError(f"no score but {verdict}")
    return f"{verdict.score.value:.2f} by {Path(judge.name).name}"


def _judge_image(items: Items) -> str:
    sample = Sample(Task.IMAGE_GENERATION, _PROMPT, (Image(items.image),))
    return _score(items.judge, sample)


def _judge_video(items: Items) -> str:
    sample = Sample(Task.VIDEO_GENERATION, _PROMPT, (Video(items.video),))
    return _score(items.judge, sample)


def _scorer(items: Items) -> str:
    """Score by PickScore with random weights: no published ones are shipped."""
    from unified_reward.judges.registry import open_judge

    folder = items.folder / "pickscore"
    _write_pickscore(folder)
    judge = open_judge(f"pickscore:{folder}", device="cpu")
    verdict = judge.ask([Sample(Task.IMAGE_GENERATION, _PROMPT, (Image(items.image),))])[0]
    if not isinstance(verdict, Scored) or verdict.score is None:
        raise ConfigError(f"no score but {verdict}")
    if not abs(verdict.score.value) <= _LOGIT_SCALE:
        raise ConfigError(f"a cosine times {_LOGIT_SCALE:g} is {verdict.score.value}")
    return "pickscore on random weights"


def _write_pickscore(folder: Path) -> None:
    """Write a tiny CLIP with random weights and a vocabulary of bytes."""
    with extra("local"):
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    ends = ("<|startoftext|>", "<|endoftext|>")
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *ends]
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    text = {"vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": 2, **tower}
    vision = {"patch_size": 112, **tower}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    bpe = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = [(end, words.index(end)) for end in ends]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}", special_tokens=marks
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=ends[0], eos_token=ends[1], pad_token=ends[1]
    ).save_pretrained(folder)


def _serve(items: Items) -> str:
    import unified_reward_client as client

    with _served() as url, client.RewardClient(url, retries=1, timeout_s=_WAIT_S) as asking:
        asking.wait_ready(_WAIT_S)
        reward = asking.score("control", [client.Item(_PROMPT, [items.image])])[0]
    if reward.value != 3:
        raise ConfigError(f"scripted:tie gives 3, the client reads {reward}")
    return "a score over 127.0.0.1"


@contextmanager
def _served() -> Iterator[str]:
    """URL of a reward server with a scripted judge, in a thread."""
    with extra("serve"):
        import uvicorn

        from unified_reward.serve.app import create_app
        from unified_reward.serve.config import ServeConfig
        from unified_reward.serve.hosts import JudgeReference, LocalHost
        from unified_reward.serve.metrics import Metrics

    config, metrics = ServeConfig(port=0), Metrics()
    host = LocalHost([JudgeReference("control", "scripted:tie")], config, metrics)
    app = create_app(host, config, metrics)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http="h11", log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, name="self-test server", daemon=True)
    thread.start()
    try:
        _wait(lambda: server.started or not thread.is_alive())
        if not server.started:
            raise ConfigError("the server does not start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_WAIT_S)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise ConfigError(f"the server does not start within {_WAIT_S:g} s")
        time.sleep(0.01)


def _arena(items: Items) -> str:
    """Vote in an arena, through its routes and without a socket."""
    with extra("arena"):
        from starlette.testclient import TestClient

        from unified_reward.arena.app import create_app
        from unified_reward.arena.items import ArenaInput, ArenaItem
        from unified_reward.arena.journal import open_votes
        from unified_reward.arena.media import MediaStore
        from unified_reward.arena.service import Arena, ArenaConfig
        from unified_reward.arena.tokens import open_tokens

    files = (Image(items.image), Image(items.folder / "other.png"))
    files[1].source.write_bytes(media.encode_png(PIL.Image.fromarray(_square(2)[1])))
    pair = ArenaItem(Example(Task.IMAGE_GENERATION, _PROMPT, files, id="0"), "a", "b")
    folder = items.folder / "arena"
    folder.mkdir()
    with open_votes(folder / "votes.jsonl") as journal:
        tokens = open_tokens(folder / "tokens.json", ["rater"])
        store = MediaStore([pair], tokens.key, folder)
        service = Arena(ArenaInput((pair,)), journal, store, tokens.key, ArenaConfig())
        headers = {"Authorization": f"Bearer {tokens.raters['rater']}"}
        app = create_app(service, tokens, is_loopback=True)
        with TestClient(app, "http://127.0.0.1", headers=headers) as client:
            item = client.get("/api/item").raise_for_status().json()["item"]
            vote = {"id": item["id"], "choice": "left", "seconds": 1.0}
            client.post("/api/vote", json=vote).raise_for_status()
    votes = read_votes(folder / "votes.jsonl")
    if [each.vote for each in votes] not in (["a"], ["b"]):
        raise ConfigError(f"one vote was given, and {len(votes)} are in the file")
    return "a vote on two images"


def _candidates(items: Items) -> str:
    from unified_reward import policies
    from unified_reward.core.extensions import checkpoint_path

    folder = checkpoint_path(_tiny("tiny_image"))
    policy = policies.load(folder, {"steps": 1})
    made = policy.sample(_PROMPT, (), [0])[0]
    if not isinstance(made, Image):
        raise ConfigError(f"a pipeline of images gives {made}")
    width, height = media.open_image(made).size
    return f"an image of {width} x {height} in one denoising step"


def _dpo(items: Items) -> str:
    from unified_reward.train.dpo import align
    from unified_reward.train.dpo_vlm import VLMDPO
    from unified_reward.train.optim import OptimConfig

    policy = _tiny("tiny_vlm")
    row: dict[str, Any] = {"id": "0", "task": "image_understanding", "prompt": "What is it?"}
    row |= {"context": [{"image": items.image.name}], "target": {"winner": "first"}}
    row |= {"candidates": [{"text": "a square"}, {"text": "a circle"}]}
    pairs = items.folder / "pairs.jsonl"
    pairs.write_text(json.dumps(row, allow_nan=False) + "\n")
    optim = OptimConfig(steps=1, batch_size=1, accumulate=1, lora_rank=2)
    report = align(pairs, policy, VLMDPO(optim), items.folder / "aligned")
    return f"loss {report['losses'][0][1]:.3f} in one step"


def _bench(_: Items) -> str:
    from unified_reward.bench.metrics import correlation

    metric = correlation("spearman", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], clusters="abc")
    if metric.value != 1:
        raise ConfigError(f"equal orders correlate by {metric.value}, not 1")
    return "a correlation with its interval"


def _report(_: Items) -> str:
    from unified_reward.report.charts import line_chart

    line_chart([[(0, 1.0), (1, 0.5)]], salt="doctor")
    return "a chart"


def _ray(_: Items) -> str:
    with extra("ray"):
        import ray

    # A cluster of its own: no address of the environment is contacted.
    options: dict[str, Any] = {"address": "local", "include_dashboard": False, "num_cpus": 1}
    ray.init(**options, num_gpus=0, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if ray.get(ray.remote(_double).remote(2), timeout=_WAIT_S) != 4:
            raise ConfigError("a task of Ray gives a wrong answer")
    finally:
        ray.shutdown()
    return "a task in a process of its own"


def _double(n: int) -> int:
    return 2 * n


TESTS: tuple[tuple[str, str, Callable[[Items], str]], ...] = (
    ("read an image", "", _image),
    ("decode a video", "", _video),
    ("judge an image", "local", _judge_image),
    ("judge a video", "local", _judge_video),
    ("score by a published system", "local", _scorer),
    ("serve and ask", "serve", _serve),
    ("vote in an arena", "arena", _arena),
    ("make a candidate", "diffusion", _candidates),
    ("DPO step", "train", _dpo),
    ("benchmark metrics", "bench", _bench),
    ("chart of a report", "report", _report),
    ("Ray task", "ray", _ray),
)
"""Name, extra and function of each test, from the cheapest."""
