"""Files of candidates of the microworld, for tests."""

import json

from unified_reward import media
from unified_reward.core.samples import Image, Task
from unified_reward_lab.microworld import candidate_pool


def stored(part, folder, name):
    """A row's part, its medium written as a file."""
    if isinstance(part, str):
        return {"text": part}
    if isinstance(part, Image):
        (folder / f"{name}.png").write_bytes(media.encode_png(media.open_image(part)))
        return {"image": f"{name}.png"}
    (folder / f"{name}.mp4").write_bytes(media.encode_mp4(part.source, part.fps))
    return {"video": f"{name}.mp4"}


def draw_pools(folder, prompts, n, task=Task.IMAGE_GENERATION):
    """Rows of candidates in ``folder``, of training captions; ids ``p0`` onwards."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(prompts):
        sampled = candidate_pool(task, n=n, split="train", seed=77, index=i)
        parts = [stored(item, folder, f"{i}-{k}") for k, item in enumerate(sampled.candidates)]
        context = [stored(item, folder, f"{i}-about") for item in sampled.context]
        row = {"id": f"p{i}", "task": task.value, "prompt": sampled.prompt}
        rows.append(row | {"candidates": parts, "context": context})
    return write_rows(folder / "candidates.jsonl", rows)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
