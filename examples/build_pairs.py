"""Build preference pairs: sample candidates, let a judge find pairs in two ways, export them.

8B judge: JUDGE = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", its wording imported (README).
Real generator: POLICY, OPTIONS = "stabilityai/sdxl-turbo", {"steps": 1, "guidance": 0}; PROMPTS.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import unified_reward as ur


JUDGE, N = "tiny_judge", 8
POLICY, OPTIONS = "tiny_image", {}  # without options as the pipeline is set; turbo needs some
PROMPTS = (
    "a large red star at the top left",
    "a small blue circle at the bottom right",
    "a green square and a yellow triangle",
)
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())

examples = [*ur.make_candidates(PROMPTS, ur.load_policy(POLICY, OPTIONS), n=N, log=print)]
judge = ur.open_judge(JUDGE)
for strategy in ("rank+sift", "adaptive"):
    results = ur.make_pairs(examples, judge, strategy=strategy)
    pairs = out / f"{strategy}.jsonl"
    ur.write_pairs(results, pairs)
    calls = sum(result.judge_calls for result in results)
    kept = [result for result in results if result.status == "kept"]
    print(f"{strategy}: {len(kept)} pairs of {len(results)} prompts, {calls} calls of the judge")
    for result in results:
        chosen, rejected = (result.scores.get(side) for side in (result.chosen, result.rejected))
        values = f"{chosen:.2f} above {rejected:.2f}" if result.pair else result.reason
        print(f"  {result.example.prompt}: {values}")
    counts = ur.export_pairs(pairs, out / f"{strategy}.parquet", "diffusers")
    print(f"  exported to {strategy}.parquet: {dict(counts)}")
print(f"written: {out}")
