"""Peak memory of scoring many images: 2,000 should take the memory of 50.

    python benchmarks/judge_memory.py [--judge tiny_judge] [--megapixels 1] [--n 50 500 2000]

Each number of files runs in a process of its own, which writes them, scores them and reports its
largest resident set. Prints JSON; ``ratio`` is the largest peak over that of the smallest number.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image


def score(judge: str, n: int, megapixels: float) -> dict[str, float]:
    """Score n new files in this process."""
    import unified_reward as ur

    side = round((megapixels * 1e6) ** 0.5)
    opened = ur.open_judge(judge, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(n)]
        small = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        for i, path in enumerate(paths):
            pixels = PIL.Image.fromarray(np.roll(small, i, axis=0))
            pixels.resize((side, side), PIL.Image.Resampling.BICUBIC).save(path, quality=80)
        start = time.perf_counter()
        verdicts = opened.score("a red star", images=paths)
        seconds = time.perf_counter() - start
    if not all(isinstance(verdict, ur.Scored) for verdict in verdicts):
        raise SystemExit("some images were not scored")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"n": n, "peak_mib": round(peak, 1), "seconds": round(seconds, 2)}


def main() -> None:
    """Measure every n in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", default="tiny_judge")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 500, 2000])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        sys.stdout.write(json.dumps(score(given.judge, given.n[0], given.megapixels)))
        return
    options = ["--judge", given.judge, "--megapixels", str(given.megapixels), "--child"]
    rows = []
    for n in given.n:
        command = [sys.executable, __file__, *options, "--n", str(n)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
    peaks = [row["peak_mib"] for row in rows]
    report = {"judge": given.judge, "megapixels": given.megapixels, "rows": rows}
    report["ratio"] = round(max(peaks) / peaks[0], 3)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
