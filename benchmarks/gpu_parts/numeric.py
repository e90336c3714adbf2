"""Verdicts on the device against those of a CPU in float32, on random tiny models.

For each architecture: faster ways are proven at load on the device in float32 and in bfloat16, and
log-probabilities of choices are compared. In bfloat16 the CPU's own rounding is the measure. For
each published scorer: outputs of a tiny one of random weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts import models, scorers
from benchmarks.gpu_parts.run import Row, Run, clear, guarded


ARCHITECTURES = (
    *("qwen2_5_vl", "qwen3_vl", "llava_onevision", "qwen2_vl", "internvl", "gemma3", "qwen3_5"),
    *("idefics2", "mistral3", "mllama"),
)
"""The main ones first, the rest while there is time."""
_FLOAT32, _BFLOAT16 = 1e-3, 2e-2
"""Bounds as a share of the largest value; in bfloat16 twice the CPU's own difference is allowed."""


def measure(run: Run) -> Iterator[Row]:
    """A row for each architecture; ``ok`` is False where a bound is missed."""
    for name in ARCHITECTURES[: 1 if run.tiny else None]:
        if not run.at_least(8):
            yield {"name": name, "error": "no time left"}
            continue
        with TemporaryDirectory() as root:
            yield guarded(name, lambda n=name, r=root: _compare(n, Path(r), run))
        clear(run.device)
    with scorers.setting(run._replace(tiny=True)) as (root, files):
        for title, kind in [*scorers.KINDS.items()][: 1 if run.tiny else None]:
            folder = root / kind.system
            yield guarded(title, lambda k=kind, f=folder: _compare_scorer(k, f, files, run))
            clear(run.device)


def _compare_scorer(kind: scorers.Kind, folder: Path, files: list[Path], run: Run) -> Row:
    on_cpu = Run(torch.device("cpu"), tiny=True, deadline=run.deadline)
    scorer = scorers.build(kind.system, folder, torch.float32, on_cpu, batch_size=4)
    prepared = [scorer.prepare(sample) for sample in scorers.samples_of(kind, files, on_cpu)]
    outputs: dict[str, np.ndarray] = {}
    for key, device, dtype in (
        ("cpu float32", on_cpu.device, torch.float32),
        ("cpu bfloat16", on_cpu.device, torch.bfloat16),
        ("device float32", run.device, torch.float32),
        ("device bfloat16", run.device, torch.bfloat16),
    ):
        module = copy.deepcopy(scorer.module).to(device, dtype)
        with torch.inference_mode():
            outputs[key] = (
                type(scorer)(module, folder, batch_size=4).forward(prepared).float().cpu().numpy()
            )
    return _verdict(outputs)


def _verdict(found: dict[str, np.ndarray]) -> Row:
    """Differences from the CPU in float32, and whether they are within the bounds."""
    plain = found.pop("cpu float32")
    apart = {key: _apart(values, plain) for key, values in found.items()}
    rounding = max(2 * apart["cpu bfloat16"], _BFLOAT16)
    ok = apart["device float32"] <= _FLOAT32 and apart["device bfloat16"] <= rounding
    return {"ok": bool(ok), "apart": apart, "allowed_bfloat16": rounding}


def _compare(name: str, root: Path, run: Run) -> Row:
    from tests.architectures import ARCHITECTURES as BUILDERS
    from unified_reward.backends.hf_vlm import load_vlm

    folder = BUILDERS[name](root / name)
    found: dict[str, np.ndarray] = {}
    ways: dict[str, dict[str, Any]] = {}
    for place, device in (("cpu", "cpu"), ("device", str(run.device))):
        for dtype in ("float32", "bfloat16"):
            key = f"{place} {dtype}"
            vlm = load_vlm(folder, device=device, dtype=dtype)
            found[key] = _logprobs(vlm)
            ways[key] = vlm.ways.describe()
    same = (_best(found["device bfloat16"]) == _best(found["cpu float32"])).mean()
    other = {
        key: value
        for key, value in ways["device bfloat16"].items()
        if key != "differences" and value != ways["cpu bfloat16"][key]
    }
    return {
        **_verdict(found),
        "same_best": float(same),
        "ways": {key: ways["device bfloat16"][key] for key in ("choices", "batches", "images")},
        "differences": ways["device bfloat16"]["differences"],
        "other_ways_than_on_a_cpu": other,
    }


def _logprobs(vlm: Any) -> np.ndarray:
    """Log-probabilities of three choices of each of some requests, in one window."""
    from unified_reward.core.requests import Request

    choices = ("1", "10 first", "second tie 10")
    images = [models.picture(i, 56) for i in range(4)]
    texts = ("rate picture: a red circle", "is better", "first or second tie picture 10")
    requests = [Request((image, text), choices) for image in images for text in texts]
    requests += [Request(("first", a, "second", b, texts[1]), choices) for a, b in pairwise(images)]
    requests += [Request((text,), choices) for text in texts]
    return np.array([answer.choice_logprobs for answer in vlm.generate(requests)])


def _best(logprobs: np.ndarray) -> np.ndarray:
    return logprobs.argmax(-1)


def _apart(values: np.ndarray, plain: np.ndarray) -> float:
    """Largest difference, as a share of the largest log-probability."""
    return float(np.abs(values - plain).max() / np.abs(plain).max())
