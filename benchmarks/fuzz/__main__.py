"""Run the fuzzing: ``python -m benchmarks.fuzz --inputs 10000 --seed 0``.

Every kind of input (images, clips, rows, tables, recipes, checkpoints, answers, server, commands)
is made from a few sound seeds by seeded mutations, read by the library in this process, and held
against a reference that shares no code with it. The input ``KIND:INDEX`` depends on the seed
alone and is made again by ``--only``. Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["UNIFIED_REWARD_HOME"] = tempfile.mkdtemp()  # nobody's own wordings

from benchmarks.fuzz.runner import KINDS, NAMES, report, run, shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--only", default="", metavar="KIND:INDEX", help="make one input again")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report here")
    given = parser.parse_args()
    kinds = given.kind.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if given.only:
        name, _, index = given.only.partition(":")
        wanted = {name: range(int(index), int(index) + 1)}
    else:
        wanted = {name: range(n) for name, n in shares(kinds, given.inputs).items()}
    results = run(wanted, given.seed, stop=bool(given.only))
    made = report(results, given.seed)
    if given.json:
        given.json.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if any(made["total"][name] for name in NAMES) else 0


if __name__ == "__main__":
    sys.exit(main())
