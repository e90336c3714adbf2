"""Score every image of a folder for a prompt, best first; a broken file has a reason and no score.

8B judge: JUDGE = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", its wording imported (README).
Real generator: set PROMPT, pass the folder of its files as an argument, and drop "draw".
"""

import csv
import sys
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

import unified_reward as ur
from unified_reward_lab.microworld import Scene, Thing, render


JUDGE = "tiny_judge"
PROMPT = "a large red star at the top left"
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

# draw: four images, and a file that is none
right = Thing("red", "star", "large", "top left")
scenes = {
    "right": right,
    "other_colour": Thing("blue", "star", "large", "top left"),
    "other_place": Thing("red", "star", "large", "bottom right"),
    "other_everything": Thing("green", "circle", "small", "bottom right"),
}
for name, thing in scenes.items():
    Image.fromarray(render(Scene((thing,)), seed=0)).save(out / f"{name}.png")
(out / "broken.png").write_bytes(b"not an image")

judge = ur.open_judge(JUDGE)
files = sorted(out.glob("*.png"))
ranking = judge.rank(PROMPT, images=files)
rows = []
for i in ranking.order:
    score = ranking.verdicts[i].score
    rows.append([files[i].name, score.value, score.sigma, ""])
    print(f"{score.value:.2f} ± {score.sigma:.2f} of {score.scale.high:g}  {files[i].name}")
for file, verdict in zip(files, ranking.verdicts, strict=True):
    match verdict:
        case ur.Failed(reason=reason) | ur.Unparsed(reason=reason):
            rows.append([file.name, "", "", reason])
            print(f"no score: {reason}")

with (out / "scores.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([["file", "score", "sigma", "reason"], *rows])
print(f"written: {out / 'scores.csv'}")
