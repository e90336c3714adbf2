"""Evaluate a judge beside controls: intervals, flips with the order, and answers nobody could read.

8B judge: JUDGES = ("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", …), its wording imported (README).
Real pairs: BENCHMARK, DATA = "genai_bench_image", the folder of its official files; LIMIT = None.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import unified_reward as ur


JUDGES = ("tiny_judge", "scripted:first", "scripted:silent")
BENCHMARK, DATA, LIMIT = "microworld", None, 2
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

reports = {}
for reference in JUDGES:
    judge = ur.open_judge(reference)
    folder = out / reference.replace(":", "-")  # a killed run continues there
    reports[reference] = ur.run_benchmark(BENCHMARK, judge, DATA, limit=LIMIT, out=folder).report

print(f"{'judge':16} {'right':>6} {'95 %':>14}   order flips  unreadable")
for reference, report in reports.items():
    accuracy, consistency = (report["metrics"][key] for key in ("pair_accuracy", "consistency"))
    low, high = accuracy["ci95"]
    same = consistency["value"]
    flips = "-" if same is None else f"{1 - same:.0%} of {consistency['n']}"
    unreadable = f"{report['n_unparsed']} of {report['n']}"
    interval = f"{low:.0%} to {high:.0%}"
    print(f"{reference:16} {accuracy['value']:6.0%} {interval:>14}   {flips:11}  {unreadable}")
print(f"written: {out}, verdicts and reports")
