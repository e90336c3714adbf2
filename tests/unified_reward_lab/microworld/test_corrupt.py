from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError
from unified_reward_lab.microworld import (
    IMAGE_FLAWS,
    VIDEO_FLAWS,
    degrade,
    freeze,
    mutate,
    random_scene,
    render,
    reverse,
)

from .scenes import IMAGE, VIDEO, scenes


@given(scenes(), st.integers(0, 2**32))
def test_one_change_makes_another_scene(scene, seed):
    changed = mutate(scene, 1, np.random.default_rng(seed))
    assert set(changed.things) != set(scene.things)
    assert changed.is_video == scene.is_video


def test_no_change_leaves_the_scene():
    assert mutate(IMAGE, 0, np.random.default_rng(0)) == IMAGE


def test_the_kinds_of_change_are_balanced():
    """Six kinds fit two still things; place changes come by `place` and by half of `swap`."""
    seen = Counter()
    rng = np.random.default_rng(0)
    for _ in range(1200):
        changed = mutate(IMAGE, 1, rng)
        if len(changed.things) != 2:
            seen["count"] += 1
            continue
        pairs = list(zip(IMAGE.things, changed.things, strict=True))
        for field in ("colour", "shape", "size", "cell"):
            n = sum(getattr(a, field) != getattr(b, field) for a, b in pairs)
            seen["swap" if n == 2 else field] += n > 0
    assert set(seen) == {"colour", "shape", "size", "cell", "count", "swap"}
    assert all(150 < n < 250 for n in seen.values())  # 200 expected, standard deviation 13


@given(scenes(is_video=True))
def test_reversing_twice_gives_the_video_back(scene):
    assert reverse(reverse(scene)) == scene


@given(scenes(is_video=True), st.integers(0, 2**32))
def test_the_reversed_scene_looks_like_the_video_played_backwards(scene, seed):
    backwards = render(scene, seed=seed)[::-1]
    difference = np.abs(backwards.astype(int) - render(reverse(scene), seed=seed))
    assert difference.max() <= 1 or difference[[0, 1, 2, 5, 6, 7]].max() == 0


@given(scenes(is_video=True), st.integers(0, 2**32))
def test_a_frozen_video_does_not_count_as_moving(scene, seed):
    still = freeze(scene)
    assert still.actor is None
    frames = render(still, seed=seed)
    assert (frames == frames[0]).all()


@pytest.mark.parametrize("flaw", IMAGE_FLAWS)
def test_image_flaws_show_from_severity_a_third_and_grow(flaw):
    clean = render(IMAGE, seed=1).astype(int)
    mild, strong = (
        np.abs(degrade(render(IMAGE, seed=1), flaw, s, np.random.default_rng(0)) - clean).mean()
        for s in (0.3, 1.0)
    )
    assert 0.5 < mild < strong


@pytest.mark.parametrize("flaw", VIDEO_FLAWS)
def test_video_flaws_keep_shape_and_type(flaw):
    clean = render(VIDEO, seed=1)
    flawed = degrade(clean, flaw, 0.5, np.random.default_rng(0))
    assert flawed.shape == clean.shape
    assert flawed.dtype == np.uint8
    assert (flawed != clean).any()


@pytest.mark.parametrize("flaw", ["flicker", "jitter"])
def test_unsteady_flaws_make_a_still_video_change(flaw):
    still = render(freeze(VIDEO), seed=1)
    flawed = degrade(still, flaw, 0.3, np.random.default_rng(0)).astype(int)
    assert np.abs(np.diff(flawed, axis=0)).mean() > 1


def test_blurring_keeps_a_flat_image_flat():
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert (degrade(flat, "blur", 1.0, np.random.default_rng(0)) == 200).all()


def test_unknown_flaws_and_severities_are_refused():
    pixels, rng = render(IMAGE, seed=0), np.random.default_rng(0)
    with pytest.raises(
        ConfigError, match="unknown flaw 'flicker' for these pixels; there are blur"
    ):
        degrade(pixels, "flicker", 0.5, rng)
    with pytest.raises(ConfigError, match=r"\(0, 1\], given 0"):
        degrade(pixels, "blur", 0.0, rng)


def test_many_changes_stop_where_no_kind_fits():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = random_scene(rng, n_things=3, is_video=True)
        assert mutate(scene, 99, rng) != scene
