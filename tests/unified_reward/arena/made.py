"""Items of an arena on tiny pictures."""

import numpy as np
import PIL.Image

from unified_reward.arena.items import ArenaItem
from unified_reward.core.samples import Example, Image, Task
from unified_reward.media import encode_png


MODELS = ("alpha", "beta")


def example(name, folder):
    """Pair with the id ``name``; its files are not written."""
    files = tuple(Image(folder / f"{name}-{side}.png") for side in "ab")
    tags = {"prompt_id": name, "model_first": MODELS[0], "model_second": MODELS[1]}
    return Example(Task.IMAGE_GENERATION, f"picture {name}", files, id=name, tags=tags)


def item(name, folder, gold=None):
    """Item whose pictures are written, each in a colour of its own."""
    pair = example(name, folder)
    for i, candidate in enumerate(pair.candidates):
        colour = np.frombuffer(f"{name}{i}xyz".encode()[-5:-2], np.uint8)
        image = PIL.Image.fromarray(np.broadcast_to(colour, (8, 8, 3)).copy())
        candidate.source.write_bytes(encode_png(image))
    return ArenaItem(pair, *MODELS, gold)
