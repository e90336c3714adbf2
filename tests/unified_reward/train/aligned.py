"""Tiny pairs of pictures and clips, and tiny pipelines aligned on them."""

import json

import numpy as np
from PIL import Image

from tests.unified_reward.policies import editors, pipelines
from unified_reward.policies import Denoising, write_defaults
from unified_reward.train.dpo_diffusion import DiffusionDPO, align_pipeline
from unified_reward.train.optim import OptimConfig


KINDS = ("pictures", "sdxl", "sd3", "wan")
FRAMES = 5
SIDE_PX = 16
_SAMPLING = {
    "sd3": Denoising(steps=1, guidance=1.0, prompt_tokens=24),
    "wan": Denoising(
        steps=1,
        guidance=1.0,
        height=SIDE_PX,
        width=SIDE_PX,
        frames=FRAMES,
        fps=4.0,
        prompt_tokens=24,
    ),
    "pix2pix": Denoising(steps=2, guidance=2.0),
    "sdxl_pix2pix": Denoising(steps=1, guidance=2.0, height=SIDE_PX, width=SIDE_PX),
    "kontext": Denoising(steps=1, guidance=2.0, height=SIDE_PX, width=SIDE_PX, prompt_tokens=24),
} | dict.fromkeys(
    ("qwen_edit", "qwen_edit_plus"),
    Denoising(steps=1, guidance=2.0, height=SIDE_PX, width=SIDE_PX),
)


def source(kind, folder):
    """A folder with a random tiny ``policy`` that says how it is sampled, and ``pairs.jsonl``."""
    getattr(editors if kind in editors.KINDS else pipelines, kind)(folder / "policy")
    options = _SAMPLING.get(kind, Denoising(steps=1, guidance=1.0))
    write_defaults(options, folder / "policy")
    write_pairs(kind, folder)
    return folder


def write_pairs(kind, folder, n=6):
    """Rows ``p0`` onwards; chosen pictures and clips are bright noise, rejected ones dark.

    Sources of edits are noise too, every other one a square.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        task = "video_generation" if kind == "wan" else "image_generation"
        row = {"id": f"p{i}", "status": "kept", "task": task, "prompt": f"star {i}"}
        if kind in editors.KINDS:
            size = (SIDE_PX, SIDE_PX if i % 2 else 2 * SIDE_PX, 3)
            original = rng.integers(0, 255, size, dtype=np.uint8)
            Image.fromarray(original).save(folder / f"source-{i}.png")
            row |= {"task": "image_editing", "context": [{"image": f"source-{i}.png"}]}
        for side, lowest in (("chosen", 120), ("rejected", 0)):
            generated = rng.integers(lowest, lowest + 120, (FRAMES, SIDE_PX, SIDE_PX, 3))
            files = [f"{side}-{i}-{k}.png" for k in range(FRAMES if kind == "wan" else 1)]
            for file, item in zip(files, generated, strict=False):
                Image.fromarray(item.astype(np.uint8)).save(folder / file)
            row[side] = {"video": files} if kind == "wan" else {"image": files[0]}
        rows.append(row)
    return write(rows, folder / "pairs.jsonl")


def write(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def config(steps=3, *, optim=None, **changes):
    moved = {"batch_size": 2, "accumulate": 1, "lr": 1e-3, "warmup": 0.0} | (optim or {})
    return DiffusionDPO(OptimConfig(steps=steps, **moved), **changes)


def align(source, out, options):
    """Align on the pairs beside a policy; the report, and the logged lines."""
    result = []
    report = align_pipeline(source / "policy", source / "pairs.jsonl", options, out, result.append)
    return report, result


def losses(report):
    assert [step for step, _ in report["losses"]] == [*range(1, len(report["losses"]) + 1)]
    return [loss for _, loss in report["losses"]]
