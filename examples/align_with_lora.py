"""Align a diffusers pipeline with LoRA by diffusion DPO, and look at it before and after.

8B judge: JUDGE = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", its wording imported (README).
Real generator: POLICY = "black-forest-labs/FLUX.1-dev", 100 prompts, steps=200, lr=1e-4.
"""

import json
import sys
from pathlib import Path
from statistics import fmean
from tempfile import mkdtemp

from PIL import Image

import unified_reward as ur
from unified_reward import media, policies
from unified_reward.core.samples import Example
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.optim import OptimConfig


JUDGE, POLICY, N, SIDE = "tiny_judge", "tiny_image", 3, 64
PLACES = ("top left", "top right", "bottom left", "bottom right")
PROMPTS = [
    f"a large {colour} star at the {place}" for colour in ("red", "blue") for place in PLACES
]
HELD_OUT = [f"a large green circle at the {place}" for place in PLACES]
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

judge, before = ur.open_judge(JUDGE), policies.load(POLICY)
examples = []
for i, prompt in enumerate(PROMPTS):
    files = [out / f"{i}-{k}.png" for k in range(N)]
    made = before.sample(prompt, (), policies.seeds(prompt, N, seed=0))
    for file, image in zip(files, made, strict=True):
        media.open_image(image).save(file)
    images = tuple(map(ur.Image, files))
    examples.append(Example(ur.Task.IMAGE_GENERATION, prompt, images, id=prompt))
pairs = ur.make_pairs(examples, judge, strategy="score")
(out / "pairs.jsonl").write_text("".join(json.dumps(pair.row(out)) + "\n" for pair in pairs))

# four steps show that it runs; a policy moves in hundreds
optim = OptimConfig(steps=4, batch_size=8, accumulate=1, lr=3e-4, lora_rank=8)
report = ur.align(out / "pairs.jsonl", POLICY, DiffusionDPO(optim), out / "aligned")
first, last = (report["losses"][i][1] for i in (0, -1))
print(f"{report['pairs']} pairs, loss {first:.3f} (log 2: as the reference) to {last:.3f}")

after = policies.load(out / "aligned")
sheet = Image.new("RGB", (len(HELD_OUT) * SIDE, 2 * SIDE))
for row, (name, policy) in enumerate({"before": before, "after": after}.items()):
    scores = []
    for column, prompt in enumerate(HELD_OUT):  # from the same seed before and after
        (image,) = policy.sample(prompt, (), policies.seeds(prompt, 1, seed=1))
        sheet.paste(media.open_image(image), (column * SIDE, row * SIDE))
        scores.append(judge.score(prompt, image=image).score.value)
    print(f"{name}: {fmean(scores):.2f} of 5 by the judge, mean of {len(scores)} held-out prompts")
sheet.save(out / "before_and_after.png")
print(f"written: {out / 'before_and_after.png'}; the adapter alone: {out / 'aligned' / 'adapter'}")
