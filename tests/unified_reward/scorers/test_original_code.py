"""Scores of these twins by transformers 4.45.2, on which the released code runs.

Its own tokenizers, processors and models read the twins' folders, in float32; the numbers were
written down on 2026-11-30. Equations of ours are not involved.
"""

import numpy as np
import pytest

import unified_reward as ur
from tests.tolerance import rounding
from tests.unified_reward.scorers.test_twins import CAPTION, FEW, PICTURE, TALL, WIDE, result


BLANKS = "two  cats ,  and a dog "
UNSEEN = "  leading, café 日本"
VIDEOSCORE = {
    (CAPTION, "wide"): (0.33384, 1.07356, 0.85531, -0.35365, 0.29511),
    (CAPTION, "few"): (0.89156, 1.01559, 1.18567, 0.5398, -0.42303),
    (BLANKS, "wide"): (1.13123, 1.45649, 0.93327, -0.37897, 0.22579),
    (BLANKS, "few"): (0.80691, 1.82853, 0.77264, 0.1515, -0.87623),
    (UNSEEN, "wide"): (0.14144, 1.06689, 0.94272, 0.57612, 0.12326),
    (UNSEEN, "few"): (0.95344, 1.11545, 1.22804, 0.20524, -0.56123),
}
"""`Idefics2Processor` of 21 and 2 frames behind the words, `Idefics2Model`, the linear head."""
CLIPS = {"wide": WIDE, "few": FEW}
IMAGES = {
    "clipscore": (0.43005, 0.0, 0.1353, 0.0, 0.47229, 0.0),
    "clip-cosine": (0.07129, -0.20283, 0.17429, -0.13601, 0.24248, -0.02966),
}
"""`CLIPTokenizer`, `CLIPModel` and torchvision's transforms; three captions of two images."""


def opened(name, twin, dtype="float32"):
    return ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu", dtype=dtype)


@pytest.mark.parametrize(("caption", "clip"), VIDEOSCORE)
def test_videoscore_gives_what_transformers_4_gave(caption, clip, twin):
    """Also where blanks are doubled or lead, and where letters are bytes."""
    video = ur.Video(CLIPS[clip], "THWC", fps=8.0)
    scored = opened("videoscore", twin).score(caption, video=video)
    wanted = VIDEOSCORE[caption, clip]
    assert result("videoscore", scored) == pytest.approx(wanted, rel=0, abs=rounding(wanted))


@pytest.mark.parametrize("name", IMAGES)
def test_clip_gives_what_transformers_4_gave(name, twin):
    scorer = opened(name, twin)
    scores = [
        scorer.score(caption, image=ur.Image(pixels, "HWC")).score.value
        for caption in (CAPTION, BLANKS, UNSEEN)
        for pixels in (PICTURE, TALL)
    ]
    assert scores == pytest.approx(IMAGES[name], rel=0, abs=rounding(IMAGES[name]))


def test_the_aesthetic_predictor_gives_what_transformers_4_gave(twin):
    """Maps in a module of the published shape behind its `CLIPModel`."""
    scorer = opened("aesthetic-v2", twin)
    scores = [
        scorer.score("", image=ur.Image(pixels, "HWC")).score.value for pixels in (PICTURE, TALL)
    ]
    wanted = np.array([-1.34528, 1.15337])
    assert scores == pytest.approx(wanted, rel=0, abs=rounding(wanted))
