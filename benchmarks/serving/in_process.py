"""Throughput of the judge called in process: the bound of a server around it.

    python -m benchmarks.serving.in_process REFERENCE

Each line of standard input says what to ask; the figures of `judge.ask` are printed.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from benchmarks.serving.wires import Traffic
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Scored
from unified_reward.judges.registry import open_judge


def main() -> None:
    torch.set_num_threads(1)
    judge = open_judge(sys.argv[1], device="cpu")
    albums: dict[tuple[int, str], Traffic] = {}
    for line in sys.stdin:
        order = json.loads(line)
        key = order["side"], order["kind"]
        traffic = albums.setdefault(key, Traffic(*key))
        samples = [
            Sample(Task.IMAGE_GENERATION, prompt, (Image(file),))
            for prompt, files in (traffic.take(order["group"]) for _ in range(order["requests"]))
            for file in files
        ]
        start, spent = time.perf_counter(), time.process_time()
        verdicts = judge.ask(samples)
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        assert all(isinstance(verdict, Scored) for verdict in verdicts)
        figures = {
            "rewards_per_s": len(samples) / seconds,
            "cpu_ms_per_reward": 1000 * spent / len(samples),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
