"""Speed of judging at real shapes: random models with the proportions of a 7B and an 8B in small.

    python -m benchmarks.real_shapes [--json] [--full] [--out FILE]

Ways to ask the questions of rank+sift about N candidates, comparisons in both orders, by turns in
one run and on one thread, in processor time:

    loop    as published code does: one question at a time, files opened, prepared and encoded anew,
            greedy generation to the end of the answer; a sample of the questions, scaled
    batch   transformers' ``generate`` on batches of similar lengths; files are opened once, and an
            image is encoded for each request, as its processor does
    ours    `GenerativeJudge.ask`
    bound   each image encoded once, each distinct prefix prefilled once, see `bound`

The default asks for N = 10 of one architecture (12 minutes at most on one core), ``--full`` for
N = 4, 10 and 20 of both, with answers of up to 200 tokens from the batch too, and makes pairs. The
last line of standard output is a summary in JSON.
"""

from __future__ import annotations

import argparse
import json
import os


os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_shapes_parts.measure import Plan, Run, joined
from benchmarks.real_shapes_parts.models import ARCHITECTURES
from benchmarks.real_shapes_parts.page import page, summary
from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_json


__all__ = ["main", "page"]


def measure(plan: Plan) -> dict[str, Any]:
    """Report of a run."""
    torch.set_num_threads(1)
    models: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    full_shape, small = [], []
    for architecture in plan.architectures:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(architecture, plan, Path(folder))
            run.warm_up()
            for n in plan.sizes:
                for task in plan.tasks:
                    run.measure(task, n)
            pairs += [run.make_pairs(task) for task in plan.pairs]
            run.compare_small()
        models.append(run.describe())
        cells += run.cells()
        full_shape.append(run.full_shape)
        small.append(run.small)
    equality = {
        "all": joined([*full_shape, *small]),
        "full_shape": joined(full_shape),
        "small": joined(small),
    }
    return {"models": models, "cells": cells, "pairs": pairs, "equality": equality}


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> None:
    """Measure, and print the summary as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print the summary alone")
    parser.add_argument("--full", action="store_true", help="all sizes, architectures and lengths")
    parser.add_argument("--out", type=Path, help="file of the report")
    given = parser.parse_args(arguments)
    plan = plan or Plan()
    if given.full:
        plan = replace(plan, architectures=ARCHITECTURES, sizes=(4, 10, 20), lengths=(1, 8, 200))
        plan = replace(plan, pairs=(Task.IMAGE_GENERATION,))
    report = measure(plan)
    if given.out:
        write_json(given.out, report)
    if not given.json:
        print(page(report))
    print(json.dumps(summary(report), allow_nan=False))


if __name__ == "__main__":
    main()
