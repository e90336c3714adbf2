"""Speed of rendering the microworld, on one core: ``python benchmarks/microworld_speed.py``.

Prints items a second as JSON. Wall-clock times differ from machine to machine and from minute to
minute; compare figures of one run only.
"""

import json
import time

import numpy as np

from unified_reward_lab.examples import CELLS
from unified_reward_lab.microworld import make_example, random_scene, render


def rate(work, seconds=2.0):
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work(done)
        done += 1
    return round(done / (time.perf_counter() - start))


def main():
    rng = np.random.default_rng(0)
    scenes = {
        kind: [random_scene(rng, n_things=2, is_video=kind == "clips") for _ in range(200)]
        for kind in ("pictures", "clips")
    }
    figures = {
        f"render.{kind}": rate(lambda i, of=of: render(of[i % len(of)], seed=i))
        for kind, of in scenes.items()
    }
    for cell, (task, form) in CELLS.items():
        figures[f"item.{cell}"] = rate(
            lambda i, task=task, form=form: make_example(
                task, form, split="train", seed=0, index=i
            ),
            1.0,
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
