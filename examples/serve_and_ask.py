"""Serve judges in a process of their own, and ask them: a failing reward is None with its reason.

8B judge: JUDGES["star"] = "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b"; the client needs no GPU.
Real trainer: start `unified-reward serve` yourself, and give RewardClient its URL and your images.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from unified_reward_client import Item, RewardClient, RewardSet, RewardTerm
from unified_reward_lab.microworld import Scene, Thing, render


JUDGES = {"star": "tiny_judge", "silent": "scripted:silent"}  # silent gives no readable answer
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
out.mkdir(parents=True, exist_ok=True)

for name, thing in {
    "right": Thing("red", "star", "large", "top left"),
    "wrong": Thing("blue", "circle", "small", "bottom right"),
}.items():
    Image.fromarray(render(Scene((thing,)), seed=0)).save(out / f"{name}.png")
(out / "broken.png").write_bytes(b"not an image")
files = [out / "right.png", out / "wrong.png", out / "broken.png"]
items = [Item("a large red star", [file]) for file in files]  # a group: images of one prompt

named = [part for name, judge in JUDGES.items() for part in ("--judge", f"{name}={judge}")]
command = [sys.executable, "-m", "unified_reward", "serve", "--port", "0", *named]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        for line in server.stderr:
            print(line, end="", file=sys.stderr)  # why it cannot start, or its URL
            if line.startswith("serving on"):
                break
        with RewardClient(line.split()[-1]) as client:
            client.wait_ready(600)
            for names in (["star"], ["star", "silent"]):
                rewards = RewardSet([RewardTerm(name) for name in names])
                result = rewards.score(client, items)
                print(f"{' + '.join(names)}, z-scores within the group:")
                for file, value, reason in zip(files, result.values, result.reasons, strict=True):
                    print(f"  {file.name}: {value if value is None else f'{value:+.2f}'}  {reason}")
    finally:
        server.terminate()
