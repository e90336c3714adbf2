"""Features kept from one question to the next change no number, and are made once."""

import gc
import weakref

import pytest
import torch

from tests.tiny import ARCHITECTURES
from tests.tolerance import near, rounding
from tests.unified_reward.backends.test_hf_vlm import picture
from tests.unified_reward.media.made import grey_steps
from unified_reward.backends import image_features
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.backends.image_features import ImageEncoder
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.judges.card import Card
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.media import encode_mp4, encode_png


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request, checkpoints):
    return load_vlm(checkpoints[request.param], device="cpu")


def fresh_encoder(model):
    return ImageEncoder(
        model.model, model.chat.processor, by_company="Llava" in type(model.model).__name__
    )


@pytest.fixture
def looked(model, monkeypatch):
    """Number of images in each pass of the vision tower."""
    passes = []
    look = model.model.model.get_image_features

    def counted(*args, **given):
        out = look(*args, **given)
        passes.append(len(out.pooler_output))
        return out

    monkeypatch.setattr(model.model.model, "get_image_features", counted)
    return passes


def requests_of(a, b, c):
    """One picture, two, the same twice, sizes mixed, none."""
    return [
        Request((a, "rate picture: a red circle"), ("1", "10", "100")),
        Request((a, "a", b, "better picture: x y z"), ("first", "tie", "second")),
        Request((c, c, "twice the same"), ("a", "b")),
        Request((c, b, a, "say"), max_new_tokens=4),
        Request(("no picture at all",), ("a red circle", "a red", "b")),
        Request((c, "alone again"), max_new_tokens=3),
    ]


@pytest.fixture
def three():
    return picture(0), picture(1, 40, 90), picture(2, 112, 28)


def logits(model, inputs):
    with torch.no_grad():
        return model.model(**inputs).logits


@pytest.mark.numeric
def test_logits_from_kept_features_equal_those_of_the_processor(model, three):
    requests = requests_of(*three)
    behind = [[20, 21], [22], [], [], [20], []]
    for questions, tokens in [(requests, ()), (requests, behind), (requests[::-1], ())]:
        plain = model.chat.batch(questions, tokens)
        kept = model.inputs(questions, tokens)
        result = plain["attention_mask"].bool()
        for name in plain.keys() & kept.keys():
            assert kept[name].equal(plain[name]), name
        wanted = logits(model, plain)[result]
        assert torch.allclose(logits(model, kept)[result], wanted, atol=rounding(wanted))
    other = requests_of(*three[:2], picture(9, 112, 28))
    far = logits(model, model.inputs(other)) - logits(model, model.inputs(requests))
    assert far.abs().max() > 0.01, "the picture does not matter to the model"


def alike(answers, others):
    """Equal up to rounding, which depends on who stands beside whom in a batch."""
    for item, other in zip(answers, others, strict=True):
        assert isinstance(item, Answer)
        assert item.text == other.text
        assert item.choice_logprobs == near(other.choice_logprobs)
    return True


def test_each_picture_is_encoded_once_however_often_it_is_asked_about(model, three, looked):
    requests = requests_of(*three)
    first = model.generate(requests)
    # LLaVA tiles the two that are also asked about alone.
    views = 5 if "Llava" in type(model.model).__name__ else 3
    assert sum(looked) == views
    model.batch_size = 2
    assert alike(model.generate(requests), first)
    assert alike(model.generate(requests[::-1]), first[::-1])
    assert sum(looked) == views


@pytest.mark.numeric
def test_llava_sees_a_picture_once_alone_and_once_in_company(checkpoints, three):
    model = load_vlm(checkpoints["llava_onevision"], device="cpu")
    encode = fresh_encoder(model).encode
    a, b, _ = three
    ((alone,), (beside, _), (again, _), (last,)) = encode([[a], [a, b], [a, a], [a]])
    assert len(alone.tokens) > len(beside.tokens)
    assert alone.tokens is last.tokens
    assert beside.tokens is again.tokens
    only = fresh_encoder(model).encode([[a, a]])[0][0]
    assert torch.allclose(only.tokens, beside.tokens, atol=rounding(beside.tokens)), (
        "tiled for want of company"
    )


def test_features_take_no_more_memory_than_they_say(model):
    encode = fresh_encoder(model).encode
    for (item,) in encode([[picture(i)] for i in range(3)]):
        kept = sum(each.untyped_storage().nbytes() for each in (item.tokens, *item.deepstack))
        assert kept == item.n_bytes


def test_features_are_dropped_with_their_picture(model):
    encode = fresh_encoder(model).encode
    visible = picture(0)
    tokens = weakref.ref(encode([[visible]])[0][0].tokens)
    gc.collect()
    assert tokens() is not None
    del visible
    gc.collect()
    assert tokens() is None


@pytest.mark.numeric
def test_a_new_picture_at_the_place_of_a_dead_one_is_not_taken_for_it(model):
    kept = fresh_encoder(model)
    dead = [picture(i) for i in range(20)]
    kept.encode([[item] for item in dead])
    places = {id(item) for item in dead}
    dead.clear()
    new = []
    while not new or id(new[-1]) not in places:
        new.append(picture(100 + len(new)))
        assert len(new) < 10_000, "no picture took the place of another"
    questions = [[item] for item in new[-20:]]
    found, due = (
        kept.encode(questions),
        fresh_encoder(model).encode(questions),
    )
    for (item,), (other,) in zip(found, due, strict=True):
        assert torch.allclose(item.tokens, other.tokens, atol=rounding(other.tokens))


@pytest.mark.numeric
@pytest.mark.parametrize("most", [0, 1_000])
def test_answers_are_the_same_where_little_is_kept(model, three, looked, monkeypatch, most):
    requests = requests_of(*three)
    free = model.generate(requests)
    monkeypatch.setattr(image_features, "_CACHE_BYTES", most)
    bound = model.generate([*requests, *requests])
    assert alike(bound, free * 2)
    views = sum(looked)
    assert alike(model.generate(requests), free)
    assert sum(looked) > views, "everything was kept"


def test_pictures_are_encoded_in_parts_of_bounded_size(model, looked, monkeypatch):
    requests = [Request((picture(i), picture(50 + i), "x"), ("1", "2")) for i in range(3)]
    whole = model.generate(requests)
    pixels = 56 * 56
    monkeypatch.setattr(image_features, "_MAX_BATCH_PIXELS", 4 * pixels)
    looked.clear()
    again = [
        Request(tuple(p if isinstance(p, str) else p.copy() for p in item.parts), item.choices)
        for item in requests
    ]
    assert alike(model.generate(again), whole)
    assert looked == [4, 2]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_picture_the_processor_refuses_fails_its_own_requests(checkpoints, three, name):
    model = load_vlm(checkpoints[name], device="cpu")
    fine = requests_of(*three)
    strip = picture(4, 2, 500)
    refused = [Request((strip, "x"), ("1", "2")), Request((three[0], strip, "x"), ("1", "2"))]
    answers = model.generate([refused[0], *fine, refused[1]])
    for item in (answers[0], answers[-1]):
        assert isinstance(item, Failed)
        assert "aspect ratio must be smaller than 200" in item.error
    assert alike(answers[1:-1], model.generate(fine))


def written(path, seed):
    path.write_bytes(encode_png(picture(seed)))
    return Image(path)


@pytest.fixture
def samples(tmp_path):
    """Questions about two pictures, and about a clip."""
    a, b = (written(tmp_path / f"{seed}.png", seed) for seed in (1, 2))
    (tmp_path / "clip.mp4").write_bytes(encode_mp4(grey_steps(4), 8))
    clip = Video(tmp_path / "clip.mp4")
    return [
        Sample(Task.IMAGE_GENERATION, "a red circle", (a, b)),
        Sample(Task.IMAGE_GENERATION, "a red circle", (Image(a.source),)),
        Sample(Task.VIDEO_UNDERSTANDING, "which picture", ("first", "tie"), (clip,)),
    ]


def test_while_kept_a_file_is_opened_and_encoded_once(model, samples, looked, tmp_path):
    judge = GenerativeJudge(model, Card("native", frames=3))
    with judge.cache_media():
        assert judge.check_samples(samples) == [None] * 3
        for path in tmp_path.iterdir():
            path.write_bytes(b"gone")
        first = judge.ask(samples)
        views = sum(looked)
        assert judge.ask(samples) == first
        assert judge.ask(samples[::-1]) == first[::-1]
        assert sum(looked) == views
    assert all(isinstance(item, Failed) for item in judge.ask(samples))


def test_what_was_kept_is_let_go_also_after_an_error(model, samples, tmp_path):
    judge = GenerativeJudge(model, Card("native", frames=3))
    broken = [*samples, None]
    with pytest.raises(AttributeError), judge.cache_media():
        judge.ask(broken)
    written(tmp_path / "1.png", 7)
    fresh = GenerativeJudge(load_vlm(model.name, device="cpu"), judge.card)
    assert judge.ask(samples[:2]) == fresh.ask(samples[:2])


def test_a_file_overwritten_between_calls_is_seen_anew(model, samples, tmp_path):
    judge = GenerativeJudge(model, Card("native", frames=3))
    before = judge.ask(samples)
    with judge.cache_media():
        assert judge.ask(samples) == before
    written(tmp_path / "1.png", 7)
    after = judge.ask(samples)
    assert after[0].probability != before[0].probability
    assert after[1].score != before[1].score
    assert after[2] == before[2]
    with judge.cache_media():
        assert judge.ask(samples) == after
