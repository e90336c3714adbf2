import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unified_reward_lab.microworld import Scene, Thing, render
from unified_reward_lab.microworld.render import mask

from .scenes import IMAGE, VIDEO, scenes


@given(scenes(), st.integers(0, 2**32))
def test_a_rendering_depends_on_scene_and_seed_alone(scene, seed):
    pixels = render(scene, seed=seed)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((8, 64, 64, 3) if scene.is_video else (64, 64, 3))
    assert (pixels == render(scene, seed=seed)).all()


def test_seeds_move_things_and_change_the_background():
    images = [render(IMAGE, seed=seed) for seed in range(20)]
    assert len({int(pixels[0, 63, 0]) for pixels in images}) > 5
    assert all(217 <= pixels[0, 63, 0] <= 233 for pixels in images)


def test_the_event_happens_between_frames_two_and_five():
    frames = render(VIDEO, seed=3)
    assert (frames[0] == frames[2]).all()
    assert (frames[5] == frames[7]).all()
    assert all((frames[i] != frames[i + 1]).any() for i in (2, 3, 4))


def test_a_move_ends_as_many_pixels_away_as_cells_are_apart():
    frames = render(VIDEO, seed=3).astype(int)
    redness = frames[..., 0] - frames[..., 1]
    columns = [(np.nonzero(red > 100)[1]).mean() for red in redness]
    assert columns[7] - columns[0] == 32


def test_masks_cover_the_area_of_their_shape():
    """A disc pi/4, a square 0.9 * 0.9, a cross 2 * 0.33 - 0.33 ** 2, a triangle 0.925 / 2."""
    for shape, area in (
        ("circle", np.pi / 4),
        ("square", 0.81),
        ("cross", 0.66 - 0.33**2),
        ("triangle", 0.4625),
    ):
        assert abs(mask(shape, 24).mean() - area) < 0.01


def test_things_stay_in_their_cell():
    for seed in range(30):
        pixels = render(Scene((Thing("black", "square", "large", "top left"),)), seed=seed)
        assert np.ptp(pixels[32:]) == 0
        assert np.ptp(pixels[:, 32:]) == 0
