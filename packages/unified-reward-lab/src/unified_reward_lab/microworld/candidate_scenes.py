"""What a candidate shows: a scene and perhaps a flaw, drawn to be better or worse for a caption.

Between the scenes and the items and lessons made from them; knows no labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unified_reward.core.samples import Image, Video

from .captions import Caption, Split, alignment, random_caption, split_of
from .corrupt import IMAGE_FLAWS, VIDEO_FLAWS, degrade, mutate
from .render import FPS, render
from .scene import FULL_WORLD, Scene, World, pick, random_scene
from .utilities import generation_utility


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but the key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class CandidateScene:
    """A scene with at most one flaw."""

    scene: Scene
    flaw: str = ""
    severity: float = 0.0

    def utility(self, caption: Caption, *, ignoring: str = "") -> float:
        """Worth as an answer to the caption, see `generation_utility`."""
        return generation_utility(
            alignment(caption, self.scene, ignoring=ignoring), quality=1 - self.severity
        )

    def medium(self, rng: np.random.Generator) -> Image | Video:
        """An image or a video of it, in memory."""
        pixels = render(self.scene, seed=int(rng.integers(2**32)))
        if self.flaw:
            pixels = degrade(pixels, self.flaw, self.severity, rng)
        if self.scene.is_video:
            return Video(pixels, layout="THWC", fps=FPS)
        return Image(pixels, layout="HWC")


def random_sized_scene(
    rng: np.random.Generator, *, is_video: bool, world: World = FULL_WORLD
) -> Scene:
    """A scene of as many things as the world has, by default of two or, more rarely, of one."""
    n_things = pick(rng, world.numbers)
    return random_scene(rng, n_things=n_things, is_video=is_video, world=world)


def random_scene_with_caption(
    rng: np.random.Generator, *, split: Split, is_video: bool, world: World = FULL_WORLD
) -> tuple[Scene, Caption]:
    """A scene and a caption true of it that belongs to the split."""
    while True:
        scene = random_sized_scene(rng, is_video=is_video, world=world)
        caption = random_caption(scene, rng)
        if split_of(caption.text) == split:
            return scene, caption


def add_random_flaw(scene: Scene, rng: np.random.Generator, *, p_flaw: float) -> CandidateScene:
    """The scene, sometimes with a flaw of severity 0.3 to 1."""
    if rng.random() >= p_flaw:
        return CandidateScene(scene)
    flaw = pick(rng, VIDEO_FLAWS if scene.is_video else IMAGE_FLAWS)
    return CandidateScene(scene, flaw, round(0.3 + 0.7 * rng.random(), 3))


def random_variation(scene: Scene, k: int, rng: np.random.Generator) -> Scene:
    """The scene with ``k`` changes, or from 4 on another scene with as many things.

    One change of a video is, in a third of the cases, sure to be that of its event.
    """
    if k >= 4:
        n_things, is_video = len(scene.things), scene.is_video
        return random_scene(rng, n_things=n_things, is_video=is_video, world=scene.world)
    if k == 1 and scene.is_video and rng.random() < 1 / 3:
        return mutate(scene, 1, rng, kinds=("event",))
    return mutate(scene, k, rng)
