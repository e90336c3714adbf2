"""Random tiny checkpoints load by their folder alone, and their answers depend on the request."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.architectures import ARCHITECTURES
from tests.tolerance import rounding


SIZES = [(56, 56), (56, 56), (84, 40), (30, 90), (64, 64), (100, 100), (90, 60), (200, 120)]
IMAGES = [
    Image.radial_gradient("L").resize(size).rotate(30 * i).convert("RGB")
    for i, size in enumerate(SIZES)
]
# Their processors take images of different sizes only if all are cut into equally many tiles.
EQUAL_TILES = {"perception_lm"}
# Found out and asked one by one, see docs/reference/architectures.md.
CHANGED_BY_BATCH = {"mllama", "hunyuan_vl"}


class Loaded:
    """A loaded checkpoint that answers requests of some words and images."""

    def __init__(self, folder):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
        self.model.eval()
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)

    def logits(self, *requests):
        images = [images for _, images in requests]
        inputs = self.processor(
            text=[self._prompt(word, len(images)) for word, images in requests],
            images=images if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        with torch.no_grad():
            return self.model(**inputs).logits[:, -1].log_softmax(-1)

    def _prompt(self, word, n_images):
        text = [{"type": "text", "text": f"{word} picture:"}, {"type": "text", "text": "a circle"}]
        content = [text[0], *[{"type": "image"}] * n_images, text[1]]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )


@pytest.fixture(params=ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture
def loaded(checkpoints, name):
    return Loaded(checkpoints[name])


@pytest.fixture
def images(name):
    return [image.resize(SIZES[0]) for image in IMAGES] if name in EQUAL_TILES else IMAGES


def test_answers_depend_on_images_and_words(loaded, images, name):
    assert name.startswith(loaded.model.config.model_type)
    no_image, alone, pair, frames = (
        loaded.logits(("rate", images[:n])).squeeze() for n in (0, 1, 2, 8)
    )
    other_image = loaded.logits(("rate", images[7:])).squeeze()
    other_word = loaded.logits(("score", images[:1])).squeeze()
    for logits in (no_image, pair, frames, other_image, other_word):
        assert logits.isfinite().all()
        assert (logits - alone).abs().max() > 0.1


def test_padding_does_not_change_an_answer(loaded, name, images):
    if name in CHANGED_BY_BATCH:
        pytest.skip(f"padding changes answers of {name} in transformers")
    requests = [("rate", images[:1]), ("score first tie second", images[2:4])]
    batch = loaded.logits(*requests)
    for row, request in zip(batch, requests, strict=True):
        alone = loaded.logits(request)[0]
        assert (row - alone).abs().max() < rounding(alone)
