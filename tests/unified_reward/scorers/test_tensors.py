"""Tensors are scored as pictures are, but for PIL's rounding, which is proven on the weights."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

import unified_reward as ur
from tests.unified_reward.scorers.test_preparation import waves
from tests.unified_reward.scorers.test_verbs import CAPTION, IMAGE_SCORERS
from unified_reward.core.errors import ModelError
from unified_reward.scorers import images


SIZES = ((60, 90), (227, 330), (16, 24), (512, 512))


def picture(height, width):
    """Black and white pixels, which overshoot where they are resized, beside waves."""
    noise = 255 * np.random.default_rng(0).integers(0, 2, (height, width, 3), dtype=np.uint8)
    noise[:, width // 2 :] = waves(height, width)[:, width // 2 :]
    return PIL.Image.fromarray(noise)


@pytest.mark.parametrize("name", [*IMAGE_SCORERS, "hpsv3"])
def test_tensors_are_proven_to_score_as_pictures(name, twin):
    """PIL rounds to whole levels of 255, which moves scores less than other pictures do."""
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
    pictures = [picture(*size) for size in SIZES]
    for image in pictures:
        scorer.check_tensors(ur.Image(image), CAPTION)
    tensors = [tv.to_dtype(tv.to_image(each), torch.float32, scale=True) for each in pictures]
    points = [scorer.score_tensors(each[None], [CAPTION]).item() for each in tensors]
    samples = [ur.Sample(ur.Task.IMAGE_GENERATION, CAPTION, (ur.Image(each),)) for each in pictures]
    wanted = [verdict.score.value for verdict in scorer.ask(samples)]
    assert points == pytest.approx(wanted, rel=0, abs=0.15 * np.ptp(wanted))


def test_hpsv3_has_gradients_to_every_pixel(twin):
    scorer = ur.open_judge(f"hpsv3:{twin('hpsv3')[0]}", device="cpu")
    pixels = torch.rand(2, 3, 40, 56, requires_grad=True)
    scorer.score_tensors(pixels, [CAPTION] * 2).sum().backward()
    assert (pixels.grad != 0).flatten(1).float().mean(1).min() > 0.9


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hpsv3"])
def test_another_resizing_is_refused_with_its_difference(name, twin, monkeypatch):
    def plain(pixels, *size):
        return tv.resize(pixels, [*size], tv.InterpolationMode.BICUBIC, antialias=True)

    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
    module = images if name == "clipscore" else __import__(type(scorer).__module__, fromlist=[""])
    monkeypatch.setattr(module, "resize_as_pil", plain)
    with pytest.raises(ModelError, match=r"60 pixels in another way .*\d levels of 255 apart"):
        scorer.check_tensors(ur.Image(picture(60, 90)), CAPTION)


def test_another_score_is_refused_with_both(twin, monkeypatch):
    scorer = ur.open_judge(f"hpsv2.1:{twin('hpsv2.1')[0]}", device="cpu")
    points = type(scorer).points
    monkeypatch.setattr(
        type(scorer), "points", lambda *given: points(*given) + 0.1 * torch.is_grad_enabled()
    )
    with pytest.raises(ModelError, match=r"scores [\d.-]+ with gradients and [\d.-]+ without"):
        scorer.check_tensors(ur.Image(picture(60, 90)), CAPTION)
