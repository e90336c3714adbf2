"""Verdicts of every architecture, compared with passes of transformers alone."""

import dataclasses
import os
import shutil
from itertools import chain

import numpy as np
import PIL.Image
import pytest
import torch

import unified_reward as ur
from tests.architectures import ARCHITECTURES
from tests.tolerance import near
from unified_reward.backends import choices, hf_vlm, passes, shared
from unified_reward.backends.equivalence import TOLERANCE
from unified_reward.backends.value_head import ValueHead, save_head, width_of
from unified_reward.core.requests import Request
from unified_reward.core.verdicts import Failed
from unified_reward.judges.card import Card, Head, build_request
from unified_reward.prompts.template import softmax


Task = ur.Task
EQUAL_TILES = {"perception_lm"}
"""Their processors refuse images of different sizes in one request."""
QUICK = ("qwen2_5_vl", "qwen3_5", "gemma3", "llava", "molmo2")
"""Architectures of different kinds: attention, recurrent layers, windows, padded text, types."""
FAST = (*QUICK, "mllama", "hunyuan_vl", "minicpmv4_6", "lfm2_vl", "idefics3", "glm46v")
"""Those, and each other way of falling back, of laying out tiles and of thinking."""
LIKE = (
    "qwen2_vl",
    "qwen3_vl_moe",
    "qwen3_5_moe",
    "gemma4_moe",
    "glm4v_moe",
    "llava_next",
    "smolvlm",
)
"""Like another but for experts, tiles or numbers of layers; tried in slow runs."""
NUMERIC = ("qwen3_5", "hunyuan_vl")
"""Tried with the rounding of other processors: recurrent layers, and a fault near rounding."""
WAYS = ("packed", "rows", "whole")
PREFIXES = ("packed", "rows", "repeated")
CHOICES = ("1", "10", "second tie")


def picture(seed, width=56, height=56):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


A, B, C, WIDE, TALL = (*map(picture, range(3)), picture(3, 90, 40), picture(4, 40, 90))
FRAMES = tuple(ur.Image(picture(10 + i, 32, 32)) for i in range(8))


def score(image):
    return ur.Sample(Task.IMAGE_GENERATION, "a red circle", (ur.Image(image),))


def comparison(first, second):
    return ur.Sample(Task.IMAGE_GENERATION, "a circle", (ur.Image(first), ur.Image(second)))


def about_film(n_frames):
    film = ur.Video(FRAMES[:n_frames], fps=8)
    return ur.Sample(Task.VIDEO_UNDERSTANDING, "what moves?", ("a circle",), (film,))


def requests(name):
    """Requests with one image, with two in both orders, and with none, beyond any window."""
    other = B if name in EQUAL_TILES else TALL
    return [
        Request((A, "rate"), CHOICES),
        Request(("first:", A, "second:", other, "which picture is better?"), CHOICES),
        Request((other, A, "say"), CHOICES),
        Request(("no picture at all: " + "a red circle " * 12,), CHOICES),
    ]


def marked(name):
    """An architecture as a parameter of a test: quick, fast or slow."""
    return marked_numeric(name) if name in FAST else pytest.param(name, marks=pytest.mark.slow)


def marked_numeric(name):
    return pytest.param(name, marks=pytest.mark.numeric if name in NUMERIC else ())


@pytest.fixture(params=[marked(name) for name in ARCHITECTURES])
def name(request):
    return request.param


@pytest.fixture
def reference(plain, name):
    return plain[name, "float32"]


def assert_equal(answers, wanted, dtype=torch.float32):
    """Equal up to the tolerance, a share of the largest log-probability."""
    for answer, values in zip(answers, wanted, strict=True):
        assert not isinstance(answer, Failed), answer
        allowed = TOLERANCE[dtype] * np.abs(values).max()
        assert answer.choice_logprobs == pytest.approx(values, rel=0, abs=allowed)


def questions(judge, sample):
    """Requests of a sample, a comparison in both orders, as the judge's family writes them."""
    turns = [sample, sample.swapped()] if sample.form == "compare" else [sample]
    return [build_request(turn, judge.card, {}) for turn in turns]


def shares(verdict):
    return verdict.p_first, verdict.p_tie, verdict.p_second


def merged(reference, questions, head=""):
    """Mean distribution over first, tie and second of both orders."""
    forth, back = (softmax(reference.choice_logprobs(turn, head)) for turn in questions)
    return np.mean([forth, back[::-1]], axis=0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in LIKE else marked_numeric(n)
        for n in ARCHITECTURES
    ],
)
def test_verdicts_on_a_batch_of_unequal_samples_are_those_of_plain_passes(judge, reference, name):
    samples = [score(A), comparison(A, B if name in EQUAL_TILES else WIDE), about_film(8)]
    turns = [questions(judge, sample) for sample in samples]
    assert [len(turn.parts) for (turn, *_) in turns] == [2, 3, 9]
    replies = judge.query(samples)
    wanted = [[reference.choice_logprobs(turn) for turn in group] for group in turns]
    assert_equal(chain(*replies), chain(*wanted))
    for sample, group in zip(samples, replies, strict=True):
        assert_equal(judge.query([sample])[0], [reply.choice_logprobs for reply in group])
    one_to_five, preferred, _ = judge.decode(samples, replies)
    mean = np.dot(softmax(wanted[0][0]), range(1, 6))
    assert one_to_five.score.value == pytest.approx(mean, abs=1e-3)
    assert shares(preferred) == pytest.approx(merged(reference, turns[1]), abs=1e-3)


def test_verdicts_behind_reasoning_are_those_of_plain_passes(judge, reference, monkeypatch):
    """Both orders of a comparison, and a score of a single frame."""
    judge.family = "reasoned"
    judge.card = dataclasses.replace(judge.card, family="reasoned", frames=1)
    samples = [comparison(A, B), about_film(1)]
    heads = ["a star: 0. Overall Judgment: ", "a circle: 1\nFinal Score: "]
    verdicts = ["Image 1 is better.", "3"]

    def written(requests):
        return [
            next(h + v for h, v in zip(heads, verdicts, strict=True) if request.verdict_prefix in h)
            for request in requests
        ]

    monkeypatch.setattr(judge.model, "_generate_text", written)
    monkeypatch.setattr(
        shared.Answers,
        "_texts_of",
        lambda self, jobs, state: written([self._requests[i] for i, _ in jobs]),
    )
    compared, scored = (questions(judge, sample) for sample in samples)
    assert len(scored[0].parts) == 2
    replies = judge.query(samples)
    wanted = [
        [reference.choice_logprobs(turn, head) for turn in turns]
        for turns, head in zip((compared, scored), heads, strict=True)
    ]
    assert_equal(chain(*replies), chain(*wanted))
    preferred, _ = judge.decode(samples, replies)
    assert shares(preferred) == pytest.approx(merged(reference, compared, heads[0]), abs=1e-3)


@pytest.fixture
def small(reference, name):
    """Requests, with their log-probabilities in plain passes."""
    return requests(name), [reference.choice_logprobs(request) for request in requests(name)]


def test_every_way_from_the_fastest_proven_one_down_is_right(judge, small):
    model, (queries, wanted) = judge.model, small
    best, encoder = model.ways, model.encoder
    equal = "of equal length" if best.padding else best.batches
    for way in PREFIXES[PREFIXES.index(best.prefixes) :]:
        model.ways = dataclasses.replace(best, prefixes=way)
        assert_equal(model.generate(queries), wanted)
    repeated = dataclasses.replace(best, prefixes="repeated")
    for way in WAYS[WAYS.index(best.choices) :]:
        model.ways = dataclasses.replace(repeated, choices=way)
        assert_equal(model.generate(queries), wanted)
        model.ways = dataclasses.replace(model.ways, batches=equal)
        assert_equal(model.generate(queries), wanted)
    model.encoder = None
    for batches in {best.batches, equal}:
        model.ways = dataclasses.replace(repeated, batches=batches)
        assert_equal(model.generate(queries), wanted)
    model.encoder, model.ways, model.batch_size = encoder, best, 1
    assert_equal(model.generate(queries), wanted)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK[:3] else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES],
)
def test_bfloat16_is_right_up_to_its_rounding(judges, plain, name):
    reference, queries = plain[name, "bfloat16"], requests(name)
    wanted = [reference.choice_logprobs(request) for request in queries]
    judge = judges[name, "bfloat16"]
    assert_equal(judge.model.generate(queries), wanted, torch.bfloat16)
    assert judge.describe()["model"]["dtype"] == "bfloat16"


def test_text_is_that_of_the_most_probable_tokens_of_plain_passes(judge, reference, name):
    model = judge.model
    queries = [Request(r.parts, max_new_tokens=3 + i) for i, r in enumerate(requests(name)[1:])]
    together = [answer.text for answer in model.generate(queries)]
    by_hand = [reference.generated(request, request.max_new_tokens) for request in queries]
    assert together == model.chat.decode(by_hand)
    assert together == [model.generate([request])[0].text for request in queries]


@pytest.fixture
def scalar(judge, checkpoints, name, tmp_path, monkeypatch):
    """A judge that scores by a random head on the same trunk."""
    torch.manual_seed(0)
    head = ValueHead(width_of(judge.model), 2, uncertain=False)
    folder = shutil.copytree(checkpoints[name], tmp_path / name, copy_function=os.symlink)
    save_head(head, folder)
    Card("native", head=Head(("style",))).write(folder)
    monkeypatch.setattr(hf_vlm, "load_vlm", lambda *_, **__: judge.model)
    scalar = ur.open_judge(folder, device="cpu")
    monkeypatch.undo()
    return scalar, head.linear


def test_values_of_a_scalar_judge_are_those_of_a_plain_pass(scalar, reference, name):
    judge, linear = scalar
    queries = requests(name)
    with torch.no_grad():
        wanted = [linear(reference.last_hidden(request)).tolist() for request in queries]
    together = judge.model.values(queries)
    assert [estimate.means for estimate in together] == [near(row) for row in wanted]
    for request, estimate in zip(queries, together, strict=True):
        assert judge.model.values([request])[0].means == near(estimate.means)
    (scored,) = judge.ask([score(A)])
    with torch.no_grad():
        (turn,) = questions(judge, score(A))
        value = torch.sigmoid(linear(reference.last_hidden(turn)))[0]
    assert scored.score.value == pytest.approx(float(value), abs=1e-4)


def test_a_judge_describes_the_ways_that_it_uses(judge, name, monkeypatch):
    model, used, masks = judge.model, set(), []

    def spied(way, function):
        def spy(*args, **options):
            used.add(way)
            return function(*args, **options)

        return spy

    for way in WAYS:
        name_of = f"_score_{way}"
        monkeypatch.setattr(choices, name_of, spied(way, getattr(choices, name_of)))
    for part, encode in ((model.model.model, "get_image_features"), (model.chat, "process")):
        if hasattr(part, encode):  # not where images are seen by cross-attention
            monkeypatch.setattr(part, encode, spied("tower", getattr(part, encode)))
    inputs = model.inputs
    monkeypatch.setattr(model, "inputs", lambda *args: masks.append(inputs(*args)) or masks[-1])
    monkeypatch.setattr(passes.TreeWalk, "visit", spied("shared", passes.TreeWalk.visit))
    model.generate(requests(name))
    assert ("shared" in used) == (model.ways.prefixes != "repeated")
    model.ways = dataclasses.replace(model.ways, prefixes="repeated")
    model.generate(requests(name))
    described = judge.describe()["model"]
    ways = described["ways"]
    assert described["architecture"] == model.model.config.model_type
    assert used - {"tower", "shared"} == {ways["choices"]}
    is_padded = any(not batch["attention_mask"].all() for batch in masks)
    assert (ways["batches"] == "padded") == is_padded
    used.clear()
    model.generate(requests(name)[:1])
    model.generate(requests(name)[:1])
    assert (ways["images"] == "encoded once") == ("tower" not in used)
