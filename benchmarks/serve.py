"""The reward server beside published patterns, on the loopback, side by side in one run.

    python -m benchmarks.serve speed [--scorer tiny|deep|vit|vlm] [--clients 1,8,64] [--groups 1,8]
    python -m benchmarks.serve encoding
    python -m benchmarks.serve faults [--requests 10000]

``speed``    Closed-loop clients in this process, each server in a process of its own with one
             thread of OpenMP, around the same random scorer: ours, started by ``unified-reward
             serve``; an async handler that runs a forward pass per request; a synchronous loop
             over pickles; and `judge.ask` in process. Ways run by turns; ratios are of
             neighbouring runs. No picture is sent twice, except in "equal requests".
``encoding`` Processor time and bytes of each format of a picture and a clip.
``faults``   Broken media, oversize bodies, disconnects, NaN from a model, hostile pickles and a
             full disk under load: every connected client gets exactly one answer, no failure is a
             number, memory stays flat. The exit status is 1 where that does not hold. With
             ``--engine ray`` the process of a judge is killed half-way.

Every command takes ``--json OUT``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.serving import faults, pictures, scorers, speed


def _numbers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("--scorer", choices=scorers.SIZES, default="tiny")
    fast.add_argument("--side", type=int, help="pixels; by default 512 for vit, else 64")
    fast.add_argument("--formats", default="jpeg75,png", help="of ours: png, jpeg75, jpeg95, npy")
    fast.add_argument("--clients", type=_numbers, default=[1, 8, 64])
    fast.add_argument("--groups", type=_numbers, default=[1, 8, 24])
    fast.add_argument("--seconds", type=float, default=2.0)
    fast.add_argument("--repeats", type=int, default=3)
    fast.add_argument("--cached", action="store_true", help="also send equal requests")
    commands.add_parser("encoding")
    broken = commands.add_parser("faults")
    broken.add_argument("--requests", type=int, default=10_000)
    broken.add_argument("--clients", type=int, default=64)
    broken.add_argument("--seed", type=int, default=0)
    broken.add_argument(
        "--log", type=Path, metavar="OUT", help="keep the server's log; its disk is not full then"
    )
    broken.add_argument("--engine", choices=("local", "ray"), default="local")
    for command in commands.choices.values():
        command.add_argument("--json", type=Path, metavar="OUT", help="write the report here")
    return parser


def run_speed(given: argparse.Namespace) -> dict:
    plan = speed.Plan(
        scorer=given.scorer,
        side=given.side or (512 if given.scorer == "vit" else 64),
        formats=given.formats.split(","),
        clients=given.clients,
        groups=given.groups,
        seconds=given.seconds,
        repeats=given.repeats,
        cached=given.cached,
    )
    rows = speed.measure(plan)
    print(speed.table(rows))
    return {"plan": vars(plan), "rows": rows}


def run_encoding(given: argparse.Namespace) -> dict:
    rows = pictures.encoding_costs()
    print(f"{'':<26}{'format':<14}{'encode ms':>10}{'decode ms':>10}{'kB':>10}{'base64 kB':>11}")
    for row in rows:
        medium, name, *figures = row.values()
        print(f"{medium:<26}{name:<14}" + "".join(f"{item:10.1f}" for item in figures))
    return {"rows": rows}


def run_faults(given: argparse.Namespace) -> dict:
    report = faults.run(given.requests, given.clients, given.seed, given.engine, given.log)
    print(faults.table(report))
    return report


def main() -> int:
    given = _parser().parse_args()
    commands = {"speed": run_speed, "encoding": run_encoding, "faults": run_faults}
    report = commands[given.command](given)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    return int(bool(report.get("broken")))


if __name__ == "__main__":
    sys.exit(main())
