"""Features of captions are kept: as the plain way gives them, encoded once, and never too long."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

import unified_reward as ur
from tests.tolerance import near
from unified_reward.scorers import clip


pytestmark = pytest.mark.numeric

CAPTIONS = ["a red ball", "", "two cats on a mat, and a very long tail", "many words " * 60]
"""The last is cut to 77 tokens."""
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 40, 50, 3), np.uint8)


def samples(captions):
    return [
        ur.Sample(ur.Task.IMAGE_GENERATION, text, (ur.Image(PIXELS[i % 6], "HWC"),))
        for i, text in enumerate(captions)
    ]


def values(judge, captions):
    return [verdict.score.value for verdict in judge.ask(samples(captions))]


@pytest.fixture(scope="module")
def opened():
    return {}


@pytest.fixture
def counted(twin, opened, monkeypatch):
    """Open a twin, and list the captions that its text tower encodes, call by call."""

    def open_twin(name):
        if name not in opened:
            folder, _ = twin(name)
            opened[name] = ur.open_judge(f"{name}:{folder}", device="cpu", batch_size=5)
        judge, calls = opened[name], []
        monkeypatch.setattr(judge, "_captions", clip.CaptionFeatures())
        encode = judge.token_ids

        def counting(prompts):
            calls.append([*prompts])
            return encode(prompts)

        monkeypatch.setattr(judge, "token_ids", counting)
        return judge, calls

    return open_twin


@pytest.mark.parametrize("name", ["pickscore", "hpsv2.1"])
def test_kept_features_score_as_each_caption_encoded_alone(name, counted):
    judge, calls = counted(name)
    captions = [*CAPTIONS * 3]
    random.Random(0).shuffle(captions)
    by_batch = values(judge, captions)
    assert sorted(text for call in calls for text in call) == sorted(CAPTIONS)
    scale = float(torch.exp(judge.module.logit_scale)) if name == "pickscore" else 1.0
    for sample, value in zip(samples(captions), by_batch, strict=True):
        pixels = judge.prepare(sample).pixels[None]
        ids = judge.token_ids([sample.prompt])
        with torch.no_grad():
            image = judge.module.get_image_features(pixel_values=pixels).pooler_output
            text = judge.module.get_text_features(input_ids=ids).pooler_output
        assert value / scale == near(cosine_similarity(image, text).item())


def test_a_group_of_one_caption_costs_one_pass_and_none_the_next_time(counted):
    judge, calls = counted("pickscore")
    first = values(judge, ["a red ball"] * 24)
    assert calls == [["a red ball"]]
    assert values(judge, ["a red ball"] * 24) == first
    assert values(judge, ["a cat", "a red ball"])[1] == near(first[1])
    assert calls == [["a red ball"], ["a cat"]]


def test_only_the_captions_used_last_are_kept(counted, monkeypatch):
    monkeypatch.setattr(clip, "_KEPT", 2)
    judge, calls = counted("pickscore")
    values(judge, ["a", "b", "c", "a"])  # more in one batch than are kept
    values(judge, ["a", "c"])
    values(judge, ["d"])
    values(judge, ["c", "a"])
    assert calls == [["a", "b", "c"], ["d"], ["a"]]


def test_threads_encode_a_caption_once(counted):
    judge, calls = counted("hpsv2.1")
    expected = values(judge, CAPTIONS)
    judge._captions = clip.CaptionFeatures()
    calls.clear()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: values(judge, CAPTIONS), range(4))]
    assert all(one == near(expected) for one in found)
    assert sorted(text for call in calls for text in call) == sorted(CAPTIONS)


def test_other_weights_and_another_dtype_drop_what_was_kept(counted):
    judge, calls = counted("clip-cosine")
    before = values(judge, CAPTIONS[:2])
    with torch.no_grad():
        judge.module.text_projection.weight.neg_()
    assert values(judge, CAPTIONS[:2]) == near([-value for value in before])
    judge.module.double()
    assert values(judge, CAPTIONS[:2]) == near([-value for value in before])
    assert len(calls) == 3


def test_gradients_do_not_pass_through_kept_features(counted):
    """`score_tensors` encodes anew, also where the text tower is trained."""
    judge, calls = counted("pickscore")
    values(judge, ["a red ball"])
    judge.module.text_projection.weight.requires_grad_()
    pixels = torch.rand(1, 3, 40, 50, requires_grad=True)
    judge.score_tensors(pixels, ["a red ball"]).sum().backward()
    assert float(pixels.grad.abs().sum()) > 0
    assert float(judge.module.text_projection.weight.grad.abs().sum()) > 0
    judge.module.text_projection.weight.requires_grad_(requires_grad=False)
    assert calls == [["a red ball"]] * 2
