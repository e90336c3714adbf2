"""One vision-language judge for generated and understood pictures and videos.

Importing this loads neither torch nor transformers; names arrive when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from unified_reward.card import Calibration, Card, Head
    from unified_reward.judge import Judge, connect, load, merge_orders, open_judge
    from unified_reward.scalar import ScalarJudge
    from unified_reward.types import (
        Answer,
        ConfigError,
        DataError,
        Failed,
        Image,
        MediaError,
        Model,
        ModelError,
        Preferred,
        Ranking,
        Record,
        Request,
        Sample,
        Scale,
        Score,
        Scored,
        ServerError,
        Target,
        Task,
        UnifiedRewardError,
        Unparsed,
        UnparsedError,
        Verdict,
        Video,
    )

__all__ = [
    "Answer",
    "Calibration",
    "Card",
    "ConfigError",
    "DataError",
    "Failed",
    "Head",
    "Image",
    "Judge",
    "MediaError",
    "Model",
    "ModelError",
    "Preferred",
    "Ranking",
    "Record",
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
__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(("Calibration", "Card", "Head"), "card"),
    **dict.fromkeys(("Judge", "connect", "load", "merge_orders", "open_judge"), "judge"),
    "ScalarJudge": "scalar",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unified_reward' has no attribute {name!r}")
    return getattr(import_module(f"unified_reward.{_HOMES.get(name, 'types')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
