"""Published point models: PickScore, HPS, ImageReward, CLIPScore, VideoReward, VideoScore, LiFT.

Each file is one system: its card, its inputs, its tensors by name, its outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, load_extension, require, wrong_type


if TYPE_CHECKING:
    from unified_reward.scorers.base import Scorer


SYSTEMS = {
    "pickscore": ("pickscore", "PickScore"),
    "hpsv1": ("hps", "HPSv1"),
    "hpsv2": ("hps", "HPSv2"),
    "hpsv2.1": ("hps", "HPSv21"),
    "imagereward": ("imagereward", "ImageReward"),
    "clipscore": ("clipscore", "CLIPScore"),
    "clip-cosine": ("clipscore", "CLIPCosine"),
    "aesthetic-v2": ("aesthetic", "AestheticV2"),
    "hpsv3": ("hpsv3", "HPSv3"),
    "editreward": ("editreward", "EditReward"),
    "videoscore": ("videoscore", "VideoScore"),
    "videoscore-v1.1": ("videoscore", "VideoScore11"),
    "videoscore-qwen2-vl": ("videoscore", "VideoScoreQwen"),
    "videoreward": ("videoreward", "VideoReward"),
    "lift-critic-13b": ("lift", "LiFTCritic"),
    "vqascore": ("vqascore", "VQAScore"),
    "visionreward-image": ("visionreward_image", "VisionRewardImage"),
    "visionreward-image-without-vqascore": ("visionreward_image", "WithoutVQAScore"),
    "visionreward-video": ("visionreward_video", "VisionRewardVideo"),
    "ixc-2.5-reward": ("ixc", "IXCReward"),
    "ixc-2.5-reward-newline": ("ixc", "IXCRewardNewline"),
}
"""Module and class of each scorer; names alone import no heavy library."""


CHECKLISTS = ("checklist-image", "checklist-video")
"""Checklists over any generative judge: ``NAME:JUDGE``."""


def scorer_names() -> tuple[str, ...]:
    """Names of the scorers of this library, then of those that other distributions add."""
    return (*SYSTEMS, *(name for name in extensions("scorers") if name not in SYSTEMS))


def system(name: str) -> type[Scorer]:
    """Class of the scorer of a name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SYSTEMS:
        added = load_extension("scorers", name)
        if added is None:
            raise ConfigError(f"there is no scorer {name!r}; there are {', '.join(scorer_names())}")
        base = require("local", "unified_reward.scorers.base").Scorer
        if not (isinstance(added, type) and issubclass(added, base)):
            raise wrong_type("scorers", name, "a class derived from Scorer", added)
        return added
    file, kind = SYSTEMS[name]
    return getattr(require("local", f"unified_reward.scorers.{file}"), kind)
