"""Scenes of candidates: variations of a scene, perhaps with a visual flaw, and their pixels.

Between scenes and the examples and lessons made from them; knows no labels.
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
    """Random generator that depends on nothing but the key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class CandidateScene:
    """A scene as a candidate shows it, with at most one visual flaw."""

    scene: Scene
    flaw: str = ""
    severity: float = 0.0

    def utility(self, caption: Caption, *, ignoring: str = "") -> float:
        """Utility as a candidate for the caption, see `generation_utility`."""
        return generation_utility(
            alignment(caption, self.scene, ignoring=ignoring), quality=1 - self.severity
        )

    def render(self, rng: np.random.Generator) -> Image | Video:
        """Render the image or video, in memory."""
        pixels = render(self.scene, seed=int(rng.integers(2**32)))
        if self.flaw:
            pixels = degrade(pixels, self.flaw, self.severity, rng)
        if self.scene.is_video:
            return Video(pixels, layout="THWC", fps=FPS)
        return Image(pixels, layout="HWC")


def random_scene_with_caption(
    rng: np.random.Generator, *, split: Split, is_video: bool, world: World = FULL_WORLD
) -> tuple[Scene, Caption]:
    """Draw a scene and a caption of it that belongs to the split."""
    while True:
        scene = random_scene(rng, is_video=is_video, world=world)
        caption = random_caption(scene, rng)
        if split_of(caption.text) == split:
            return scene, caption


def add_random_flaw(scene: Scene, rng: np.random.Generator, *, p_flaw: float) -> CandidateScene:
    """Return the scene, with probability ``p_flaw`` with a flaw of severity 0.3 to 1."""
    if rng.random() >= p_flaw:
        return CandidateScene(scene)
    flaw = pick(rng, VIDEO_FLAWS if scene.is_video else IMAGE_FLAWS)
    return CandidateScene(scene, flaw, round(0.3 + 0.7 * rng.random(), 3))


def random_variation(scene: Scene, k: int, rng: np.random.Generator) -> Scene:
    """Return the scene with ``k`` changes, or from 4 on another scene with as many things.

    In a third of the cases, a single change of a video is one of its event.
    """
    if k >= 4:
        n_things, is_video = len(scene.things), scene.is_video
        return random_scene(rng, n_things=n_things, is_video=is_video, world=scene.world)
    if k == 1 and scene.is_video and rng.random() < 1 / 3:
        return mutate(scene, 1, rng, kinds=("event",))
    return mutate(scene, k, rng)
