"""Everything that only a GPU can tell, in one command of at most 8 minutes.

    python -m benchmarks.gpu --out docs/results/gpu.json [--parts numeric scorers] [--json]

Needs torch, transformers and this repository, no network; what another package is needed for is
skipped with a line. Parts, each a process of its own with a share of the time:

    card       the card's peaks: a large product, a large copy
    numeric    faster ways and verdicts in float32 and bfloat16 against the CPU, on tiny models
    language   models of 7B and 8B: prefill, vision, decoding, questions of a judge
    scorers    published scorers of real size: images a second, alone and with decoding files
    alignment  a step of GRPO and of DPO of a FLUX-sized transformer

An error, also one that ends a process, is reported and the rest goes on. Rows are printed, and the
report is written, as soon as they exist. ``--tiny --device cpu`` is the dry run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.page import page
from benchmarks.gpu_parts.run import FAULTS, Row, Run


ROOT = Path(__file__).parents[1]
PARTS = {"card": 0.05, "numeric": 0.2, "language": 0.35, "scorers": 0.25, "alignment": 0.15}
"""Each with its share of the time; what a part leaves goes to the others."""
SECONDS = 470.0
_MARGIN = 5.0
"""Seconds before its end at which a part begins nothing any more."""
_ROW = "row: "


def rows_of(part: str, run: Run) -> Iterator[Row]:
    """Rows of a part, in this process."""
    try:
        module = import_module(f"benchmarks.gpu_parts.{part}")
    except ModuleNotFoundError as error:
        yield {"name": part, "error": f"{error.name} is not installed: pip install {error.name}"}
        return
    if part == "alignment":
        yield from _alignment(module, run)
        return
    yield from module.measure(run)


def _alignment(module: Any, run: Run) -> Iterator[Row]:
    found = module.measure("tiny" if run.tiny else "flux", str(run.device))
    for name, figures in found.items():
        yield {"name": name, **(figures if isinstance(figures, dict) else {"value": figures})}


def isolated(part: str, device: str, seconds: float, *, tiny: bool) -> Iterator[Row]:
    """Rows of a part in a process of its own, which is ended when its time is over."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", part, "--device", device]
    command += ["--seconds", str(seconds), *(["--tiny"] if tiny else [])]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        timer = threading.Timer(seconds, child.kill)
        timer.start()
        try:
            for line in child.stdout or ():
                if line.startswith(_ROW):
                    yield json.loads(line.removeprefix(_ROW))
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()
    if code:
        late = time.monotonic() - start >= seconds
        why = f"stopped after its {seconds:.0f} s" if late else f"its process ended with {code}"
        yield {"name": "the rest", "error": why}


def measure(device: str, parts: list[str], seconds: float, *, tiny: bool) -> Iterator[Row]:
    """The report, again after every row, with that row under ``last``."""
    start = time.monotonic()
    report: Row = {"device": device, "tiny": tiny, "seconds": 0.0, "parts": {}}
    for i, part in enumerate(parts):
        began = time.monotonic()
        left = seconds - (began - start)
        limit = left * PARTS[part] / sum(PARTS[one] for one in parts[i:])
        filled: Row = {"seconds": 0.0, "rows": []}
        report["parts"][part] = filled
        if torch.device(device).type == "cuda":
            rows = isolated(part, device, limit, tiny=tiny)
        else:
            rows = rows_of(part, Run(torch.device(device), tiny, began + limit))
        for row in _quietly(_until_fault(rows)):
            filled["rows"].append(row)
            filled["seconds"] = time.monotonic() - began
            report["seconds"] = time.monotonic() - start
            yield report | {"last": row}


def _until_fault(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows, and in place of what an error prevents a row about it."""
    try:
        yield from rows
    except FAULTS as error:
        yield {"name": "the rest", "error": f"{type(error).__name__}: {error}"}


def _quietly(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows, with what libraries print sent to stderr."""
    while True:
        with redirect_stdout(sys.stderr):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _child(part: str, run: Run) -> None:
    for row in _until_fault(rows_of(part, run)):
        sys.stdout.write(f"{_ROW}{json.dumps(row, allow_nan=False)}\n")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    parser.add_argument("--out", type=Path, help="file of the report, written after every row")
    parser.add_argument("--json", action="store_true", help="print the report, rows to stderr")
    parser.add_argument("--tiny", action="store_true", help="a dry run at tiny sizes")
    parser.add_argument("--child", choices=[*PARTS], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        end = time.monotonic() + given.seconds - _MARGIN
        return _child(given.child, Run(torch.device(given.device), given.tiny, end))
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny --device cpu is the dry run")
    report: Row = {}
    lines = sys.stderr if given.json else sys.stdout
    for now in measure(given.device, given.parts, given.seconds, tiny=given.tiny):
        report = {key: value for key, value in now.items() if key != "last"}
        lines.write(json.dumps(now["last"], allow_nan=False) + "\n")
        lines.flush()
        if given.out:
            given.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    sys.stdout.write(json.dumps(report, allow_nan=False) + "\n" if given.json else page(report))
    return None


if __name__ == "__main__":
    main()
