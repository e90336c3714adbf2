"""Find out which of two models is better, by how much, with an interval and a page to look at.

8B judge: JUDGE = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", its wording imported (README).
Real generator: drop "draw"; folders of both models, files named by the number of their prompt.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import unified_reward as ur
from unified_reward_lab import microworld


JUDGE = "tiny_judge"
PROMPTS = 16
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

# draw: model "before" takes its first image, model "after" the best of three others
prompts = []
for i in range(PROMPTS):
    pool = microworld.candidate_pool(ur.Task.IMAGE_GENERATION, n=4, split="test", seed=0, index=i)
    utilities = microworld.true_utilities(pool)
    for model, k in {"before": 0, "after": max((1, 2, 3), key=utilities.__getitem__)}.items():
        ur.save(pool.candidates[k], out / model / f"{i:04}.png")
    prompts.append(pool.prompt)
(out / "prompts.txt").write_text("\n".join(prompts))

judge = ur.open_judge(JUDGE)
outputs = ur.read_models([f"{out}/before", f"{out}/after"], out / "prompts.txt")
report = ur.evaluate_models(outputs, {"judge": judge}, out=out / "evaluation").report

paired = report["paired"]["after"]["judge"]
low, high = paired["ci95"]
wins_low, wins_high = paired["win_rate_ci95"]
print(f"after minus before: {paired['difference']:.2f} points, 95 % {low:.2f} to {high:.2f}")
print(f"after wins {paired['win_rate']:.0%}, 95 % {wins_low:.0%} to {wins_high:.0%}")
print(f"{paired['n']} prompts, {len(report['missing'])} outputs without a value")
print("better" if low > 0 else "worse" if high < 0 else "cannot be told apart")

print(f"written: {out / 'evaluation' / 'page.html'}")
