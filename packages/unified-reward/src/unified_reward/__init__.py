"""One vision-language judge for generated and understood pictures and videos.

Importing this loads neither torch nor transformers; names arrive when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from unified_reward.core.errors import (
        ConfigError,
        DataError,
        MediaError,
        ModelError,
        ServerError,
        UnifiedRewardError,
        UnparsedError,
    )
    from unified_reward.core.requests import Answer, Model, Request
    from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
    from unified_reward.core.verdicts import (
        Failed,
        Preferred,
        Ranking,
        Scale,
        Score,
        Scored,
        Unparsed,
        Verdict,
    )
    from unified_reward.judges.card import Calibration, Card, Head
    from unified_reward.judges.generative import GenerativeJudge, merge_orders
    from unified_reward.judges.registry import connect, load, open_judge
    from unified_reward.judges.scalar import ScalarJudge

__all__ = [
    "Answer",
    "Calibration",
    "Card",
    "ConfigError",
    "DataError",
    "Example",
    "Failed",
    "Head",
    "Image",
    "GenerativeJudge",
    "MediaError",
    "Model",
    "ModelError",
    "Preferred",
    "Ranking",
    "Request",
    "Sample",
    "ScalarJudge",
    "Scale",
    "Score",
    "Scored",
    "ServerError",
    "Target",
    "Task",
    "UnifiedRewardError",
    "Unparsed",
    "UnparsedError",
    "Verdict",
    "Video",
    "connect",
    "load",
    "merge_orders",
    "open_judge",
]
__version__ = "0.2.0"
_HOMES = {
    "core.errors": (
        *("ConfigError", "DataError", "MediaError", "ModelError", "ServerError"),
        *("UnifiedRewardError", "UnparsedError"),
    ),
    "core.requests": ("Answer", "Model", "Request"),
    "core.samples": ("Example", "Image", "Sample", "Target", "Task", "Video"),
    "core.verdicts": (
        *("Failed", "Preferred", "Ranking", "Scale", "Score", "Scored", "Unparsed", "Verdict"),
    ),
    "judges.card": ("Calibration", "Card", "Head"),
    "judges.generative": ("GenerativeJudge", "merge_orders"),
    "judges.registry": ("connect", "load", "open_judge"),
    "judges.scalar": ("ScalarJudge",),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unified_reward' has no attribute {name!r}")
    home = next(home for home, names in _HOMES.items() if name in names)
    return getattr(import_module(f"unified_reward.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
