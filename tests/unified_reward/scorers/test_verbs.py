"""Scorers behind the verbs of a judge, the bench and the audit; gradients to the pixels."""

import json
import math

import PIL.Image
import pytest
import torch

import unified_reward as ur
from tests.unified_reward.scorers.test_preparation import waves
from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.verdicts import Scale, Score
from unified_reward.io.fingerprints import folder_revision
from unified_reward.scorers import loading


CAPTION = "a red ball"
IMAGE_SCORERS = ["pickscore", "hpsv1", "hpsv2", "hpsv2.1", "imagereward"]
IMAGE_SCORERS += ["clipscore", "clip-cosine", "aesthetic-v2"]
PICTURES = [PIL.Image.fromarray(waves(40 + 9 * i, 70)[:, :: 1 - 2 * (i % 2)]) for i in range(3)]


@pytest.fixture(scope="module")
def pickscore(twin):
    return ur.open_judge(f"pickscore:{twin('pickscore')[0]}", device="cpu")


@pytest.mark.parametrize("name", IMAGE_SCORERS)
def test_a_clip_or_blip_scorer_is_float32_on_every_device_unless_another_is_given(
    name, twin, monkeypatch
):
    """In bfloat16 their values are off by more than images of one prompt differ."""
    resolve = loading.resolve_dtype
    monkeypatch.setattr(loading, "resolve_dtype", lambda dtype, _: resolve(dtype, "cuda"))
    folder, _ = twin(name)
    assert ur.open_judge(f"{name}:{folder}", device="cpu").dtype == torch.float32
    other = ur.open_judge(f"{name}:{folder}", device="cpu", dtype="bfloat16")
    assert other.dtype == torch.bfloat16
    assert any("float32" in line and "bfloat16" in line for line in other.card.deviations)


def test_another_scorer_is_bfloat16_off_a_cpu(twin, monkeypatch):
    resolve = loading.resolve_dtype
    monkeypatch.setattr(loading, "resolve_dtype", lambda dtype, _: resolve(dtype, "cuda"))
    scorer = ur.open_judge(f"videoscore:{twin('videoscore')[0]}", device="cpu")
    assert scorer.dtype == torch.bfloat16


def test_a_scorer_describes_its_card_and_its_weights(pickscore, twin):
    described = json.loads(json.dumps(pickscore.describe(), allow_nan=False))
    assert described["kind"] == "scorer"
    assert described["tasks"] == {
        "image_generation": {"forms": ["score", "compare"], "scale": None, "aspects": {}}
    }
    assert described["values"] == "a cosine times about 100; typically 17 to 25"
    assert described["licence"] == {"code": "MIT", "weights": "MIT"}
    assert described["revision"] == folder_revision(twin("pickscore")[0])
    videos = ur.open_judge(f"videoreward:{twin('videoreward')[0]}", device="cpu").describe()
    aspects = ("visual quality", "motion quality", "text alignment")
    assert videos["tasks"]["video_generation"]["aspects"] == dict.fromkeys(aspects)


@pytest.mark.numeric
def test_a_comparison_is_the_softmax_of_two_scores(pickscore):
    first, second = (pickscore.score(CAPTION, image=entry).score.value for entry in PICTURES[:2])
    result = pickscore.compare(CAPTION, images=PICTURES[:2])
    odds = math.exp(first) / (math.exp(first) + math.exp(second))
    assert result.p_first == pytest.approx(odds, rel=1e-4)
    assert result.p_tie == 0
    mirrored = pickscore.compare(CAPTION, images=PICTURES[1::-1])
    assert mirrored.p_second == pytest.approx(result.p_first, rel=1e-6)


@pytest.mark.numeric
def test_equal_pictures_are_a_tie_and_a_ranking_goes_by_score(pickscore):
    assert pickscore.compare(CAPTION, images=[PICTURES[0], PICTURES[0]]).winner == "tie"
    copied = pickscore.compare(CAPTION, images=[PICTURES[0], PICTURES[0].copy()])
    assert copied.probability == pytest.approx(0.5, abs=1e-4)  # scores of some tens, rounded
    ranked = pickscore.rank(CAPTION, images=PICTURES)
    assert list(ranked.order) == sorted(range(3), key=lambda i: -ranked.scores[i])
    assert pickscore.rank(CAPTION, images=PICTURES, by="pairs").order == ranked.order


def test_a_candidate_is_scored_once_however_often_it_is_met(pickscore, monkeypatch):
    seen = []
    forward = type(pickscore).forward

    def counted(self, batch):
        seen.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(type(pickscore), "forward", counted)
    with pickscore.cache_media():
        images = [ur.Image(entry) for entry in PICTURES]
        pickscore.rank(CAPTION, images=images, by="pairs")
        pickscore.rank(CAPTION, images=images)
    assert sum(seen) == 3


def test_one_candidate_that_breaks_the_model_fails_alone(pickscore, monkeypatch):
    forward = type(pickscore).forward

    def breaks(self, batch):
        if any(entry.text == "bad" for entry in batch):
            raise RuntimeError("no memory")
        return forward(self, batch)

    monkeypatch.setattr(type(pickscore), "forward", breaks)
    samples = [
        ur.Sample(ur.Task.IMAGE_GENERATION, prompt, (ur.Image(PICTURES[0]),))
        for prompt in ("good", "bad", "fine")
    ]
    good, bad, fine = pickscore.ask(samples)
    assert "could not answer: no memory" in bad.error
    assert isinstance(good, ur.Scored)
    assert isinstance(fine, ur.Scored)


def test_hpsv3_compares_less_surely_where_it_is_unsure(twin):
    scorer = ur.open_judge(f"hpsv3:{twin('hpsv3')[0]}", device="cpu")
    scale = Scale(None, None)
    first, second, vague = (
        ur.Scored(Score(value, scale, sigma))
        for value, sigma in ((1.0, 0.0), (0.0, 0.0), (0.0, 3.0))
    )
    assert scorer.compare_scored(first, second).p_first == pytest.approx(1 / (1 + math.exp(-1)))
    wide = 1 / math.sqrt(1 + math.pi * 9 / 8)
    assert scorer.compare_scored(first, vague).p_first == pytest.approx(1 / (1 + math.exp(-wide)))


def test_videoreward_sums_standardised_values_and_shares_by_aspect(twin):
    scorer = ur.open_judge(f"videoreward:{twin('videoreward')[0]}", device="cpu")
    scored = scorer.decode([2.5, 0.25, -3.875])
    assert [entry.value for entry in scored.aspects.values()] == [1.0, 1.0, -1.0]
    assert scored.score.value == 1.0
    result = scorer.compare_scored(scored, scorer.decode([0.5, 0.25, 0.125]))
    assert result.aspects["visual quality"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert result.aspects["motion quality"] == 0.5


@pytest.mark.numeric
@pytest.mark.parametrize("name", IMAGE_SCORERS)
def test_gradients_reach_the_pixels_and_agree_with_differences(name, twin):
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu", dtype="float64")
    pixels = torch.from_numpy(waves(60, 90) / 255).permute(2, 0, 1)[None].double()
    pixels.requires_grad_()
    scores = scorer.score_tensors(pixels, [CAPTION])
    assert scores.shape == (1,)
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    direction = gradient / gradient.norm()
    step = 1e-4
    with torch.no_grad():
        ends = [scorer.score_tensors(pixels + s * direction, [CAPTION]) for s in (step, -step)]
    slope = float(ends[0] - ends[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=1e-3)


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "near"), [("hpsv2.1", 1e-5), ("hpsv1", 2e-3), ("pickscore", 0.1)])
def test_tensors_score_as_pictures_but_for_the_resizing(name, near, twin):
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
    pixels = torch.from_numpy(waves(60, 90)).permute(2, 0, 1)[None].float() / 255
    by_tensor = scorer.score_tensors(pixels, [CAPTION]).item()
    by_file = scorer.score(CAPTION, image=PIL.Image.fromarray(waves(60, 90))).score.value
    assert by_tensor == pytest.approx(by_file, abs=near)


def test_pixels_of_another_shape_or_number_are_refused(pickscore):
    with pytest.raises(MediaError, match=r"float of shape \(B, 3, H, W\)"):
        pickscore.score_tensors(torch.zeros(3, 8, 8), ["a"])
    with pytest.raises(MediaError, match=r"uint8"):
        pickscore.score_tensors(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"])
    with pytest.raises(DataError, match="1 images and 2 captions"):
        pickscore.score_tensors(torch.zeros(1, 3, 8, 8), ["a", "b"])
