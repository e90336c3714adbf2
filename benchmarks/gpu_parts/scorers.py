"""Published scorers of real size with random weights: alone, and with decoding of JPEG files.

A scorer is built by its own ``skeleton`` from the shapes of its released tensors, with a tokenizer
made offline and made-up words of the length of its prompt, so that its inputs have their sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_parts import models
from benchmarks.gpu_parts.run import Row, Run, clear, guarded, made_on, seconds_of, speed
from benchmarks.gpu_parts.scorer_files import MAKERS, Sizes


BATCH = 16
N_FILES = 64
SIDE = 1024
CLIP = (16, 480, 832)
"""Frames of a video, and their size; in memory, so that it is not decoded."""


class Kind(NamedTuple):
    """A scorer, the dtypes it is measured in, and its candidates."""

    system: str
    dtypes: tuple[str, ...]
    batch: int = BATCH
    is_video: bool = False


BOTH = ("float32", "bfloat16")
KINDS = {
    "CLIP-L/14": Kind("clip-cosine", BOTH),
    "PickScore (CLIP-H/14)": Kind("pickscore", BOTH),
    "HPSv2 (CLIP-H/14)": Kind("hpsv2", BOTH),
    "ImageReward (BLIP-L)": Kind("imagereward", BOTH),
    "HPSv3 (Qwen2-VL-7B)": Kind("hpsv3", ("bfloat16",)),
    "VQAScore (CLIP-FlanT5-XXL)": Kind("vqascore", ("bfloat16",)),
    "VideoScore-Qwen2-VL (7B)": Kind("videoscore-qwen2-vl", ("bfloat16",), 1, is_video=True),
    "VideoScore (Idefics2-8B)": Kind("videoscore", ("bfloat16",), 1, is_video=True),
}
"""By a title with the size."""


def measure(run: Run) -> Iterator[Row]:
    """Two rows or more of each scorer."""
    with setting(run) as (root, files):
        for title, kind in KINDS.items():
            for dtype in kind.dtypes[-1:] if run.tiny else kind.dtypes:
                name = f"{title}, {dtype}"
                if not run.at_least(10):
                    yield {"name": name, "error": "no time left"}
                    continue
                folder = root / name.partition(" ")[0] / dtype
                yield guarded(name, lambda k=kind, d=dtype, f=folder: _scorer(k, d, f, files, run))
                clear(run.device)


@contextmanager
def setting(run: Run) -> Iterator[tuple[Path, list[Path]]]:
    """A temporary folder with made-up words in force, and pictures in it."""
    with TemporaryDirectory() as root, _made_up_words(Path(root)):
        yield Path(root), _pictures(Path(root), run)


def samples_of(kind: Kind, files: list[Path], run: Run) -> list[Any]:
    """A sample for each file, or one of a video."""
    import unified_reward as ur

    if kind.is_video:
        n, height, width = (2, 56, 84) if run.tiny else CLIP
        clip = torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8).numpy()
        candidates: list[Any] = [ur.Video(clip, "THWC", fps=8.0)]
        task = ur.Task.VIDEO_GENERATION
    else:
        candidates, task = [ur.Image(file) for file in files], ur.Task.IMAGE_GENERATION
    return [ur.Sample(task, models.words(20), (one,)) for one in candidates]


def _scorer(kind: Kind, dtype: str, folder: Path, files: list[Path], run: Run) -> Row:
    batch = min(kind.batch, 2) if run.tiny else kind.batch
    scorer = build(kind.system, folder, getattr(torch, dtype), run, batch_size=batch)
    samples = samples_of(kind, files, run)
    prepared = [scorer.prepare(sample) for sample in samples[:batch]]
    row = speed(run, lambda: scorer.forward(prepared), scorer.dtype)
    row["parameters"] = sum(weight.numel() for weight in scorer.module.parameters())
    row["alone_per_s"] = len(prepared) / row["seconds"]
    if kind.is_video:
        return row
    row["with_files_per_s"] = len(samples) / _seconds(scorer, samples, run)
    forward, scorer.forward = scorer.forward, lambda batch: torch.zeros(len(batch), 2)
    try:
        row["files_alone_per_s"] = len(samples) / _seconds(scorer, samples, run)
    finally:
        scorer.forward = forward
    row["bound_by"] = "model" if row["alone_per_s"] < row["files_alone_per_s"] else "decoding"
    return row


def _seconds(scorer: Any, samples: list[Any], run: Run) -> float:
    """Seconds of scoring files, which a scorer opens anew every time."""
    from unified_reward.core.verdicts import Scored

    def ask() -> None:
        verdicts = scorer.ask(samples)
        assert all(isinstance(one, Scored) for one in verdicts), verdicts[0]

    return seconds_of(ask, run, budget=3.0)


def build(system: str, folder: Path, dtype: torch.dtype, run: Run, *, batch_size: int) -> Any:
    """A scorer with random weights on the device; its files beside the weights go into a folder."""
    from unified_reward.scorers import system as kind_of

    kind = kind_of(system)
    folder.mkdir(parents=True, exist_ok=True)
    shapes: Sizes = MAKERS[system](folder, tiny=run.tiny)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    torch.manual_seed(0)
    with made_on(run.device, dtype):
        module = kind.skeleton(state, folder)
    return kind(module.to(run.device, dtype), folder, batch_size=batch_size)


def _pictures(root: Path, run: Run) -> list[Path]:
    n, side = (4, 128) if run.tiny else (N_FILES, SIDE)
    files = [root / f"{i}.jpg" for i in range(n)]
    for i, file in enumerate(files):
        models.picture(i, side).save(file, quality=90)
    return files


@contextmanager
def _made_up_words(root: Path) -> Iterator[None]:
    """Made-up words of the lengths of the published prompts, which are not in this repository."""
    from unified_reward.prompts.packs import published_prompts

    home = os.environ.get("UNIFIED_REWARD_HOME")
    os.environ["UNIFIED_REWARD_HOME"] = str(root)
    try:
        packs: dict[str, list[Mapping[str, str]]] = {}
        for name, ending in ENDINGS.items():
            prompt = published_prompts()[name]
            text = _words_of_length(prompt.length - len(ending)) + ending
            digest = hashlib.sha256(text.encode()).hexdigest()
            row = {"name": name, "task": prompt.task, "form": "score"}
            row |= {"text": text, "sha256": digest}
            packs.setdefault(prompt.repository.split("/")[1].lower(), []).append(row)
        (root / "packs").mkdir()
        for pack, rows in packs.items():
            content = json.dumps({"schema": 1, "wordings": rows})
            (root / "packs" / f"{pack}.json").write_text(content, "utf-8")
        yield
    finally:
        if home is None:
            del os.environ["UNIFIED_REWARD_HOME"]
        else:
            os.environ["UNIFIED_REWARD_HOME"] = home


ENDINGS: dict[str, str] = {
    "HPSV3": " ⟪prompt⟫",
    "HPSV3-SUFFIX": " <|Reward|>",
    "VIDEOSCORE": ' "⟪prompt⟫",\n',
    "VQASCORE": ' "{}"?',
}
"""Slots and marks that a prompt must have."""


def _words_of_length(n: int) -> str:
    return models.words(n // 4)[: max(n, 0)]
