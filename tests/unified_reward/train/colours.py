"""Small examples to train random tiny checkpoints on."""

import PIL.Image

from unified_reward.core.requests import Request
from unified_reward.train.sft import ChatExample


COLOURS = ("red", "green", "blue", "yellow")


class ColourExamples:
    """A question about the colour of an image: two sizes, texts of any length."""

    def __init__(self, n=8):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        colour = COLOURS[index % 4]
        picture = PIL.Image.new("RGB", (56, 56 if index % 2 else 28), colour)
        question = "which colour is it? " * (1 + index % 3)
        return ChatExample(
            Request((picture, question)), f"it is {colour}" + " indeed" * (index % 2)
        )
