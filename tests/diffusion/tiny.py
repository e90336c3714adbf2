"""A tiny pipeline and how it is sampled."""

from collections.abc import Callable
from typing import Any, NamedTuple

from unified_reward.policies import Denoising


class Tiny(NamedTuple):
    """A random pipeline, and sampling options under which it is fast and guided."""

    build: Callable[[], Any]
    sampling: Denoising
