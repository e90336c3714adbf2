"""Scenes for the tests: two by hand, and any that can be drawn."""

import numpy as np
from hypothesis import strategies as st

from unified_reward_lab.microworld import Scene, Thing, random_scene


IMAGE = Scene(
    (
        Thing("red", "circle", "small", "top left"),
        Thing("blue", "star", "large", "bottom right"),
    )
)
VIDEO = Scene(
    (
        Thing("red", "circle", "small", "top left", "moves right"),
        Thing("blue", "star", "large", "bottom right"),
    ),
    is_video=True,
)


def scenes(*, is_video: bool | None = None) -> st.SearchStrategy[Scene]:
    kinds = st.booleans() if is_video is None else st.just(is_video)
    return st.builds(
        lambda seed, n, video: random_scene(
            np.random.default_rng(seed), n_things=n, is_video=video
        ),
        st.integers(0, 2**32 - 1),
        st.integers(1, 3),
        kinds,
    )
