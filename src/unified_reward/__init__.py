"""One vision-language judge for generated and understood pictures and videos.

Importing this loads neither torch nor transformers; names arrive when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from unified_reward.judge import Card, Judge, connect, load, merge_orders, open_judge
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
    "Card",
    "ConfigError",
    "DataError",
    "Failed",
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
_FROM_JUDGE = {"Card", "Judge", "connect", "load", "merge_orders", "open_judge"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unified_reward' has no attribute {name!r}")
    home = "judge" if name in _FROM_JUDGE else "types"
    return getattr(import_module(f"unified_reward.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
