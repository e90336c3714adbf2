"""Align a diffusers pipeline with LoRA by diffusion DPO, and look at it before and after.

8B judge: JUDGE = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", its wording imported (README).
Real generator: POLICY, SIDE = "black-forest-labs/FLUX.1-dev", 512; optim of the recipe dpo_flux.
"""

import sys
from pathlib import Path
from statistics import fmean
from tempfile import mkdtemp

from PIL import Image

import unified_reward as ur
from unified_reward import media


JUDGE, POLICY, N, SIDE = "tiny_judge", "tiny_image", 3, 64
PLACES = ("top left", "top right", "bottom left", "bottom right")
PROMPTS = [
    f"a large {colour} star at the {place}" for colour in ("red", "blue") for place in PLACES
]
HELD_OUT = [f"a large green circle at the {place}" for place in PLACES]
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())

judge, before = ur.open_judge(JUDGE), ur.load_policy(POLICY)
candidates = ur.make_candidates(PROMPTS, before, n=N, log=print)
pairs = ur.make_pairs(candidates, judge, strategy="score")
ur.write_pairs(pairs, out / "pairs.jsonl")

# four steps show that it runs; a policy moves in hundreds
optim = ur.OptimConfig(steps=4, batch_size=8, accumulate=1, lr=3e-4, lora_rank=8)
report = ur.align(out / "pairs.jsonl", POLICY, ur.DiffusionDPO(optim), out / "aligned")
first, last = (report["losses"][i][1] for i in (0, -1))
print(f"{report['pairs']} pairs, loss {first:.3f} (log 2: as the reference) to {last:.3f}")

after = ur.load_policy(out / "aligned")
sheet = Image.new("RGB", (len(HELD_OUT) * SIDE, 2 * SIDE))
for row, (name, policy) in enumerate({"before": before, "after": after}.items()):
    scores = []
    for column, prompt in enumerate(HELD_OUT):  # from the same seed before and after
        (image,) = policy.sample(prompt, (), seeds=[1])
        picture = media.open_image(image).resize((SIDE, SIDE))
        sheet.paste(picture, (column * SIDE, row * SIDE))
        scores.append(judge.score(prompt, image=image).score.value)
    print(f"{name}: {fmean(scores):.2f} of 5 by the judge, mean of {len(scores)} held-out prompts")
sheet.save(out / "before_and_after.png")
print(f"written: {out / 'before_and_after.png'}; the adapter alone: {out / 'aligned' / 'adapter'}")
