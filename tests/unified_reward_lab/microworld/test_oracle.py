import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified_reward.core.errors import MediaError
from unified_reward_lab.microworld import (
    IMAGE_FLAWS,
    Caption,
    Mention,
    degrade,
    describe,
    oracle,
    random_scene,
    render,
)
from unified_reward_lab.microworld.oracle import read

from .scenes import IMAGE, VIDEO


DEFAULT_SHARED = Path(__file__).parents[4] / "shared"
PHOTOGRAPHS = Path(os.environ.get("UNIFIED_REWARD_SHARED", DEFAULT_SHARED)) / "data" / "real_media"


@pytest.mark.parametrize(("is_video", "n"), [(False, 300), (True, 100)])
def test_clean_renderings_are_read_back(is_video, n):
    rng = np.random.default_rng(11)
    originals = [random_scene(rng, n_things=1 + i % 3, is_video=is_video) for i in range(n)]
    read_back = sum(
        scene is not None and set(scene.things) == set(true.things)
        for true, scene in ((true, read(render(true, seed=i))) for i, true in enumerate(originals))
    )
    assert read_back >= 0.99 * n


def test_alignment_counts_the_attributes_of_a_wanted_scene():
    """Size, colour, shape, place of two things and the count are nine; one size is wrong."""
    wanted = replace(IMAGE, things=(replace(IMAGE.things[0], size="large"), IMAGE.things[1]))
    pixels = render(IMAGE, seed=0)
    assert oracle.alignment(IMAGE, pixels) == 1.0
    assert oracle.alignment(wanted, pixels) == pytest.approx(8 / 9)


def test_alignment_with_a_caption_counts_only_what_it_says():
    caption = Caption("", (Mention("red", "circle"), Mention("green", "star")))
    assert oracle.alignment(caption, render(IMAGE, seed=0)) == pytest.approx(4 / 5)


def test_alignment_sees_the_event_of_a_video():
    """Ten attributes and the count; played backwards, the event and the place are others."""
    frames = render(VIDEO, seed=0)
    assert oracle.alignment(VIDEO, frames) == 1.0
    assert oracle.alignment(VIDEO, frames[::-1]) == pytest.approx(9 / 11)


@pytest.mark.parametrize("shape", [(64, 64, 3), (8, 64, 64, 3)])
def test_blank_pixels_and_noise_are_not_read(shape):
    rng = np.random.default_rng(0)
    for pixels in (
        np.full(shape, 225, np.uint8),
        np.zeros(shape, np.uint8),
        rng.integers(0, 256, shape, dtype=np.uint8),
    ):
        assert read(pixels) is None
        assert oracle.alignment(IMAGE, pixels) == 0.0


@pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason="needs photographs: set UNIFIED_REWARD_SHARED to their folder"
)
def test_photographs_are_not_read():
    paths = [
        path
        for path in sorted(PHOTOGRAPHS.rglob("*"))
        if path.suffix.lower() in (".png", ".jpg", ".bmp")
    ]
    assert paths
    for path in paths:
        with Image.open(path) as photograph:
            assert read(np.asarray(photograph.convert("RGB").resize((64, 64)))) is None, path.name


@pytest.mark.parametrize("flaw", IMAGE_FLAWS)
def test_flawed_images_are_seldom_misread(flaw):
    rng = np.random.default_rng(2)
    misread = 0
    for i in range(60):
        true = random_scene(rng, n_things=2, is_video=False)
        scene = read(degrade(render(true, seed=i), flaw, 0.3, rng))
        misread += scene is not None and set(scene.things) != set(true.things)
    assert misread <= 9


def test_pale_images_are_read_in_full():
    rng = np.random.default_rng(2)
    for seed in range(20):
        assert read(degrade(render(IMAGE, seed=seed), "washed out", 1.0, rng)) == IMAGE


def test_two_things_that_change_are_not_explained_away():
    frames = render(VIDEO, seed=0).copy()
    frames[4:, 32:] = frames[4:, 63:, 63:]
    assert read(frames) is None


@pytest.mark.parametrize(
    "pixels", [np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.float32)]
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(MediaError, match=r"uint8 pixels of shape \(64, 64, 3\) or \(8,"):
        read(pixels)


@pytest.mark.parametrize(
    ("kind", "both", "alike", "one_only", "neither"),
    [
        ("pictures", 83, 82, (4, 5), 8),  # one hybrid of star and cross is called by either name
        ("clips", 43, 43, (4, 17), 36),
    ],
)
def test_what_policies_draw_is_read_as_it_was_labelled_by_eye(kind, both, alike, one_only, neither):
    """Labelled before the oracle read it; None is doubt. A video is its frames 0, 1, 6 and 7."""
    results = Path(__file__).parents[3] / "docs" / "results"
    labels = json.loads((results / "oracle_labels.json").read_text("utf-8"))[kind]
    sheet = np.asarray(Image.open(results / f"oracle_{kind}.png"))
    high = len(sheet) // 10
    counts = Counter()
    for row in labels:
        line, column = divmod(row["index"], 10)
        pixels = sheet[high * line : high * (line + 1), 64 * column : 64 * (column + 1)]
        if kind == "clips":
            pixels = pixels.reshape(4, 64, 64, 3)[[0, 1, 1, 1, 2, 2, 2, 3]]
        scene = oracle.read(np.ascontiguousarray(pixels))
        counts[row["seen"] is not None, scene is not None] += 1
        counts["alike"] += scene is not None and describe(scene) == row["seen"]
    assert (counts[True, True], counts["alike"]) == (both, alike)
    assert (counts[True, False], counts[False, True]) == one_only
    assert counts[False, False] == neither
