"""Train a judge on votes of people, and measure it on votes that it was not trained on.

8B judge: BASE = "Qwen/Qwen3-VL-8B-Instruct", family="native"; optim of the recipe qwen3_vl_8b.
Real votes: drop "draw", and pass a folder with two files of `unified-reward arena` of these names.
"""

import json
import random
import sys
from itertools import groupby
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

import unified_reward as ur
from unified_reward.data.sources.votes import join_votes
from unified_reward.io.vote_rows import Vote, read_votes
from unified_reward_lab.microworld import Scene, Thing, render


BASE = "tiny_judge"
PLACES = ("top left", "top right", "bottom left", "bottom right")
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

# draw: two of three people prefer blue, whatever the prompt, which BASE cannot know
for name, shape, n in (("votes", "star", 48), ("held_out", "circle", 20)):
    rng, lines = random.Random(name), []
    for i in range(n):
        size, place = rng.choice(("small", "large")), rng.choice(PLACES)
        colours = rng.sample(("blue", rng.choice(("red", "green"))), 2)
        for colour in colours:
            scene = Scene((Thing(colour, shape, size, place),))
            Image.fromarray(render(scene, seed=i)).save(out / f"{name}-{i}-{colour}.png")
        images = tuple(ur.Image(out / f"{name}-{i}-{colour}.png") for colour in colours)
        prompt = f"a {size} {shape} at the {place}"
        pair = ur.Example(ur.Task.IMAGE_GENERATION, prompt, images, id=f"{name}-{i}")
        blue, other = ("a", "b") if colours[0] == "blue" else ("b", "a")
        for rater, choice in (("ann", blue), ("bob", blue), ("eve", other)):
            vote = Vote(pair, "new", "old", choice, rater, 3.0, "ab", "2026-12-01T12:00:00Z")
            lines.append(json.dumps(vote.row(out)))
    (out / f"{name}.jsonl").write_text("\n".join(lines))

votes = sorted(read_votes(out / "votes.jsonl"), key=lambda vote: vote.id)
records = [join_votes([*group]) for _, group in groupby(votes, key=lambda vote: vote.id)]
optim = ur.OptimConfig(steps=16, batch_size=8, accumulate=1, lr=1e-3, lora_rank=8)
config = ur.JudgeTraining(optim, base=BASE, family="compact")
losses = ur.train_judge(config, out / "judge", records)
print(f"{len(votes)} votes on {len(records)} pairs, loss {losses[0][1]:.2f} to {losses[-1][1]:.2f}")

for name, reference in {"before": BASE, "after": out / "judge"}.items():
    report = ur.run_benchmark("votes", ur.open_judge(reference), out / "held_out.jsonl").report
    right = report["metrics"]["pair_accuracy"]
    low, high = right["ci95"]
    print(f"{name}: {right['value']:.0%} of held-out majorities, 95 % {low:.0%} to {high:.0%}")
print(f"written: {out / 'judge'}")
