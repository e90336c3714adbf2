"""Scores of the Qwen twins by the transformers of the released code: 4.45.2, and 4.57.0 for edits.

Its own tokenizers, image processors and models read the twins' folders in float32; embeddings with
the features of the tower in place of marks, positions left open, heads as matrix products. The
numbers were written down on 2026-11-30. Equations of ours are not involved.
"""

import json

import pytest

import unified_reward as ur
from tests.tolerance import rounding
from tests.unified_reward.scorers.test_twins import (
    CAPTION,
    CLIP,
    LYING,
    SHORT,
    SQUARE,
    clip,
    result,
)


BLANKS = "two  cats ,  and a dog "
UNSEEN = "Naïve café 日本, it's 3 o'clock!"
PAIRS = ((SQUARE, LYING), (LYING, SQUARE))
WRITTEN = 1e-5
"""They are written with five digits."""
HPSV3 = {
    CAPTION: (-0.0559, 0.16731),
    BLANKS: (-0.12801, 0.09303),
    UNSEEN: (-0.11198, 0.28918),
}
EDITS = {
    CAPTION: ((-0.04358, -0.12082, 0.1627, -0.67027), (0.01991, -0.19884, 0.11956, -1.1592)),
    BLANKS: ((-0.3277, -0.15923, 0.06187, -0.6967), (0.06961, -0.29266, 0.13276, -1.12025)),
    UNSEEN: ((-0.00948, -0.13419, 0.11728, -1.11039), (-0.32039, -0.03161, -0.02837, -0.80174)),
}
"""Mean and log-deviation of both heads, all six in one batch that is padded on the right."""
VIDEOS = {
    "videoreward": {
        CAPTION: ((0.14823, 0.14204, -0.01), (0.23029, 0.96642, -0.02813)),
        BLANKS: ((0.14823, 0.14204, -0.06897), (0.23029, 0.96642, -0.04816)),
        UNSEEN: ((0.14823, 0.14204, 0.03938), (0.23029, 0.96642, 0.06006)),
    },
    "videoscore-qwen2-vl": {
        CAPTION: (
            (-1.25621, 1.21055, 1.59976, -0.5332, -1.02083),
            (-0.44804, 1.50824, 2.49677, -0.86644, -0.17523),
        ),
        BLANKS: (
            (-1.38818, 1.34511, 1.49231, -0.45679, -1.10909),
            (-0.7554, 1.69846, 2.15845, -0.81256, -0.05259),
        ),
        UNSEEN: (
            (-1.87587, 0.36903, 2.09039, -0.45003, -0.68252),
            (-1.16639, 0.43673, 2.4537, -0.49857, -0.42005),
        ),
    },
}


def answers(name, folder, samples):
    scorer = ur.open_judge(f"{name}:{folder}", device="cpu", dtype="float32")
    return [result(name, verdict) for verdict in scorer.ask(samples)]


def near(wanted, *, scale=1.0):
    return pytest.approx(wanted, rel=0, abs=rounding(wanted) / scale + WRITTEN)


def test_hpsv3_gives_what_transformers_4_gave(twin):
    square = ur.Image(SQUARE, "HWC")
    samples = [ur.Sample(ur.Task.IMAGE_GENERATION, words, (square,)) for words in HPSV3]
    for got, wanted in zip(
        answers("hpsv3", twin("hpsv3")[0], samples), HPSV3.values(), strict=True
    ):
        assert got == near(wanted)


def test_editreward_gives_what_transformers_4_gave(twin):
    samples = [
        ur.Sample(ur.Task.IMAGE_EDITING, words, (ur.Image(b, "HWC"),), (ur.Image(a, "HWC"),))
        for words in EDITS
        for a, b in PAIRS
    ]
    wanted = [row for rows in EDITS.values() for row in rows]
    for got, row in zip(answers("editreward", twin("editreward")[0], samples), wanted, strict=True):
        assert got == near(row)


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_scorer_gives_what_transformers_4_gave(name, twin):
    """Standardised values are divided by the deviations of the folder, of which 0.5 is least."""
    folder = twin(name)[0]
    samples = [
        ur.Sample(ur.Task.VIDEO_GENERATION, words, clip(frames).candidates)
        for words in VIDEOS[name]
        for frames in (CLIP, SHORT)
    ]
    if name == "videoreward":
        constants = json.loads((folder / "model_config.json").read_text("utf-8"))
        assert constants["inference_config"]["MQ_std"] == 0.5
    wanted = [row for rows in VIDEOS[name].values() for row in rows]
    for got, row in zip(answers(name, folder, samples), wanted, strict=True):
        assert got == near(row, scale=0.5)
