"""Speed and memory of alignment at 512 x 512 pixels, against loops in the published manner.

    python -m benchmarks.diffusion_shapes [--json] [--full] [--size tiny]

A random UNet with the proportions of Stable Diffusion 1 and a random transformer with those of
Stable Diffusion 3, of about 60 million weights; their autoencoders and text encoders in full size.
Both ways have the same weights, adapters, noise and optimiser, by turns in one run, one thread, and
times are of the processor.

    DPO   published: a second copy of the network as reference; in every step files are opened, and
          the autoencoder and the text encoders run for both pictures.
          ours: encoded once; the reference is the network with its adapters off.
    GRPO  published: a sampling loop of its own, every step but the last stochastic and trained.
          ours: the unmodified pipeline with a window of two steps.

Peak memory is of a process for each way, above the loaded pipeline.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.diffusion_parts import arithmetic, dpo_ways, grpo_ways, pipelines
from benchmarks.diffusion_parts.page import page


__all__ = ["measure", "page"]

KINDS = ("unet", "dit")


def peak(way: str, kind: str, size: str) -> dict[str, float]:
    """Peak memory of a way of DPO, in a process of its own that has loaded nothing else."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_peak, (way, kind, size))


def _peak(way: str, kind: str, size: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return dpo_ways.peak_mib(way, kind, pipelines.SIZES[size], Path(folder))


def measure(size: str, steps: int, updates: int, grpo_kinds: tuple[str, ...]) -> dict[str, Any]:
    """Measure both algorithms.

    Args:
        size: A key of `pipelines.SIZES`.
        steps: Steps of DPO of each way.
        updates: Updates of GRPO of each way.
        grpo_kinds: Networks that are trained by GRPO.
    """
    start, shape = time.process_time(), pipelines.SIZES[size]
    report: dict[str, Any] = {"size": size, "pixels": shape.side, "dpo": {}, "grpo": {}}
    peaks = {kind: {way: peak(way, kind, size) for way in dpo_ways.WAYS} for kind in KINDS}
    _say(f"peaks: {peaks}")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = dpo_ways.compare(kind, shape, steps, Path(folder))
        report["dpo"][kind] = found | summary(found["step_s"]) | {"peak_mib": peaks[kind]}
        _say(f"dpo {kind}: {found['step_s']}")
    for kind in grpo_kinds:
        found = grpo_ways.compare(kind, shape, updates)
        apart = grpo_ways.differences(kind, pipelines.SIZES["tiny"])
        report["grpo"][kind] = found | summary(found["update_s"]) | {"differences": apart}
        _say(f"grpo {kind}: {found['update_s']}")
    costs = arithmetic.costs()
    report["arithmetic"] = {name: cost | arithmetic.ratios(cost) for name, cost in costs.items()}
    report["processor_s"] = time.process_time() - start
    return report


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the ways, and their ratio with the least and largest of a turn."""
    first, second = seconds.values()
    turns = [a / b for a, b in zip(first, second, strict=True)]
    medians = {way: median(times) for way, times in seconds.items()}
    ratio = median(first) / median(second)
    return {
        "median_s": medians,
        "ratio": ratio,
        "ratio_least": min(turns),
        "ratio_most": max(turns),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and print the report or its page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="more turns, and GRPO of both networks")
    parser.add_argument("--size", default="real", choices=pipelines.SIZES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with redirect_stdout(sys.stderr):
        turns = (5, 3, KINDS) if given.full else (3, 2, ("dit",))
        report = measure(given.size, *turns)
    print(json.dumps(report, indent=1, allow_nan=False) if given.json else page(report))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
