"""Time of 30 questions about one image over that of one: the image is computed once.

    python benchmarks/prefix_speed.py [--width 512] [--layers 4] [--repeats 3]

Random weights in VisionReward-Image's proportions: 1344 x 1344 pixels are 2,304 image tokens, so
2,307 of some 2,330 tokens are the same for every question; widths and depths are scaled down. One
run measures each number in turn, and takes the least processor time of the repeats. Prints JSON;
``ratio`` is of whole passes, ``language_ratio`` of the language model alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from unified_reward.scorers.cogvlm import CogVLM, Sizes, expert_mask, positions
from unified_reward.scorers.eva2_clip import TowerSizes


N_QUESTIONS = 30
TOKENS = (20, 26)
"""Least and most tokens of a question with the words around it."""
VOCABULARY, SIDE, PATCH, HEAD, TOWER_HEAD = 8192, 1344, 14, 128, 112


def build(width: int, layers: int) -> CogVLM:
    """A model of random weights; the tower has as many layers as the language model, and 1 head."""
    tower = TowerSizes(
        width=TOWER_HEAD,
        layers=layers,
        inner=8 * TOWER_HEAD,
        patch=PATCH,
        positions=(SIDE // PATCH) ** 2 + 1,
        output=width,
        adapter_inner=3 * width,
    )
    size = Sizes(
        vocabulary=VOCABULARY,
        width=width,
        layers=layers,
        heads=width // HEAD,
        key_heads=max(width // HEAD // 4, 1),
        head=HEAD,
        inner=7 * width // 2,
        tower=tower,
        has_expert=True,
    )
    module = CogVLM(size).eval().requires_grad_(requires_grad=False)
    for parameter in [*module.parameters(), *module.buffers()]:
        parameter.normal_(std=0.02)
    return module


class Passes:
    """Passes of one image and some questions."""

    def __init__(self, module: CogVLM) -> None:
        rng = random.Random(0)
        self.module = module
        self.pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.questions = [
            [rng.randrange(VOCABULARY) for _ in range(rng.randint(*TOKENS))]
            for _ in range(N_QUESTIONS)
        ]
        self.image = module.visual_tokens(self.pixels)[0]

    def language(self, n: int) -> Any:
        """The language model alone, with the image's tokens as they are."""
        n_image = len(self.image) - 2
        places = [0, *positions(1, n_image)]
        tokens = torch.cat([self.module.embed([1]), self.image])
        prefix = self.module.encode(tokens, places, [False, *expert_mask(n_image)])
        return self.module.last_logits(prefix, self.questions[:n], places[-1] + 1)

    def whole(self, n: int) -> Any:
        """Tower and language model."""
        self.image = self.module.visual_tokens(self.pixels)[0]
        return self.language(n)


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of a call, which other programs do not lengthen."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def main() -> None:
    """Measure every kind of pass in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    passes = Passes(build(given.width, given.layers))
    kinds: dict[str, Callable[[], Any]] = {
        "one": lambda: passes.whole(1),
        "thirty": lambda: passes.whole(N_QUESTIONS),
        "language_one": lambda: passes.language(1),
        "language_thirty": lambda: passes.language(N_QUESTIONS),
    }
    times = {name: float("inf") for name in kinds}
    for _ in range(given.repeats):
        for name, work in kinds.items():
            times[name] = min(times[name], seconds(work))
    report: dict[str, float] = {f"{name}_s": round(value, 3) for name, value in times.items()}
    report["prefix_tokens"] = 1 + len(passes.image)
    report["question_tokens"] = sum(map(len, passes.questions))
    report["ratio"] = round(times["thirty"] / times["one"], 3)
    report["language_ratio"] = round(times["language_thirty"] / times["language_one"], 3)
    sys.stdout.write(json.dumps(report, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
