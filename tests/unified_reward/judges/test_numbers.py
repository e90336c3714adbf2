"""A number that is not finite is a failure of its item alone, from every kind of judge."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import unified_reward_lab.checkpoints
from unified_reward.cli import app
from unified_reward.core.requests import Answer, ValueEstimate
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scored
from unified_reward.judges.card import Card, Head
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.registry import open_judge
from unified_reward.judges.scalar import ScalarJudge


CHECKPOINTS = Path(unified_reward_lab.checkpoints.__file__).parent
NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
PICTURES = [PIL.Image.new("RGB", (64, 64), colour) for colour in ("black", "white")]
FIRST, SECOND = (Image(picture) for picture in PICTURES)


def changed(folder, name, file, change):
    """Copy of a shipped checkpoint with some weights changed."""
    shutil.copytree(CHECKPOINTS / name, folder)
    weights = load_file(folder / file)
    change(weights)
    (folder / file).unlink()
    save_file(weights, folder / file, {"format": "pt"})
    return folder


def spoil(key, number):
    def change(weights):
        weights[key] = weights[key].clone()
        weights[key].view(-1)[0] = number

    return change


NORM = ("judge", "model.safetensors", "model.language_model.norm.weight")
BIAS = ("scalar", "value_head.safetensors", "linear.bias")


@pytest.fixture(scope="module", params=[(*NORM, math.nan), (*BIAS, math.nan), (*BIAS, math.inf)])
def spoilt(request, tmp_path_factory):
    """Folder of a checkpoint with one weight that is not finite."""
    name, file, key, number = request.param
    folder = tmp_path_factory.mktemp("spoilt") / name
    return changed(folder, name, file, spoil(key, number))


def test_weights_that_are_not_finite_give_failures_and_no_numbers(spoilt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, picture in zip("ab", PICTURES, strict=True):
        picture.save(f"{name}.png")
    rows = [
        {"id": "s", "task": "image_generation", "prompt": "x", "candidates": [{"image": "a.png"}]},
        {
            "id": "c",
            "task": "image_generation",
            "prompt": "x",
            "candidates": [{"image": "a.png"}, {"image": "b.png"}],
        },
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["judge", "in.jsonl", "out.jsonl", "--judge", str(spoilt)])
    assert result.exit_code == 1
    judged = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["status"] for row in judged] == ["failed", "failed"]
    assert all("try another dtype" in row["reason"] for row in judged)
    rank = ["rank", "a.png", "b.png", "--prompt", "x", "--judge", str(spoilt)]
    row = json.loads(CliRunner().invoke(app, [*rank, "--json"]).stdout)
    assert (row["status"], row["order"], row["scores"]) == ("failed", [], [None, None])
    ranked = CliRunner().invoke(app, rank)
    assert ranked.exit_code == 1
    assert "no candidate has a score" in ranked.stderr
    assert ranked.stdout.split() == ["-", "a.png", "-", "b.png"]


def test_what_overflows_in_float16_is_failed_there_and_scored_in_float32(tmp_path):

    def change(weights):
        for key in weights:
            if "visual.blocks.0.mlp" in key and "weight" in key:
                weights[key] = weights[key] * 9000

    folder = changed(tmp_path / "judge", "judge", "model.safetensors", change)
    questions = [Sample(Task.IMAGE_GENERATION, "x", (one,)) for one in (FIRST, SECOND)]
    wide, narrow = (
        open_judge(str(folder), dtype=dtype).ask(questions) for dtype in ("float32", "float16")
    )
    assert all(isinstance(one, Scored) for one in wide)
    assert all(isinstance(one, Failed) and "another dtype" in one.error for one in narrow)


class Spoken:
    """Model that answers the log-probabilities or the values of a caption, by its words."""

    name = "spoken"

    def __init__(self, replies):
        self._replies = replies

    def _reply(self, request):
        text = "".join(part for part in request.parts if isinstance(part, str))
        return next(make for word, make in self._replies.items() if word in text)()

    def generate(self, requests):
        return [self._reply(request) for request in requests]

    values = generate


def ask(judge, *prompts, candidates=(FIRST,)):
    return judge.ask([Sample(Task.IMAGE_GENERATION, prompt, candidates) for prompt in prompts])


def test_a_value_that_overflows_fails_alone():
    """The deviation is finite, its square is not."""
    model = Spoken(
        {
            "huge": lambda: ValueEstimate((0.0,), (1e200,)),
            "good": lambda: ValueEstimate((0.0,), (1.0,)),
        }
    )
    judge = ScalarJudge(model, Card("compact", head=Head(uncertain=True)))
    for candidates in ((FIRST,), (FIRST, SECOND)):
        good, huge, last = ask(judge, "good", "huge", "good", candidates=candidates)
        assert isinstance(huge, Failed)
        assert huge.error.startswith("spoken gave no verdict: ")
        assert good == last
        assert isinstance(good, Scored | Preferred)


def test_an_answer_that_cannot_be_decoded_fails_alone():
    """Two log-probabilities where the scale has five steps."""
    good = (-9.0, -9.0, -9.0, 0.0, -9.0)
    model = Spoken(
        {"odd": lambda: Answer("", (-1.0, -1.0)), "good": lambda: Answer("", good)},
    )
    found, lost, again = ask(GenerativeJudge(model, Card("compact")), "good", "odd", "good")
    assert isinstance(lost, Failed)
    assert found == again
    assert found.score.value == pytest.approx(4.0, abs=0.01)


def test_features_of_one_picture_that_are_not_numbers_fail_it_alone(tiny, monkeypatch):
    """In a batch of prompts of different lengths, which are padded."""
    prompts = ("a", "a large red star on the left of a small blue circle")
    good = [Sample(Task.IMAGE_GENERATION, prompt, (FIRST,)) for prompt in prompts]
    bad = Sample(Task.IMAGE_GENERATION, "a red star", (SECOND,))
    encoder = tiny.model.encoder
    encode = encoder.encode

    def spoilt(images):
        rows = encode(images)
        for of_request, row in zip(images, rows, strict=True):
            if PICTURES[1] in of_request:
                row[:] = [one._replace(tokens=one.tokens * math.nan) for one in row]
        return rows

    alone = tiny.ask(good)
    monkeypatch.setattr(encoder, "encode", spoilt)
    short, failed, long = tiny.ask([good[0], bad, good[1]])
    assert isinstance(failed, Failed)
    for found, wanted in ((short, alone[0]), (long, alone[1])):
        assert found.score.value == pytest.approx(wanted.score.value, rel=1e-5)  # other batches


def test_generated_text_of_logits_that_are_not_numbers_is_a_failure(checkpoints):
    """Greedy decoding takes some token of NaN, which may be a digit."""
    from unified_reward.backends.hf_vlm import load_vlm
    from unified_reward.core.requests import Request

    vlm = load_vlm(checkpoints["qwen3_vl"], batch_size=2)
    good = vlm.generate([Request(("rate picture",), max_new_tokens=2)])
    with torch.no_grad():
        vlm.model.lm_head.weight[3] = math.nan
    bad = vlm.generate([Request(("rate picture",), max_new_tokens=2)])
    assert isinstance(good[0], Answer)
    assert "are not numbers; try another dtype" in bad[0].error
