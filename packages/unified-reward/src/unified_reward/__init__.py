"""One vision-language judge for generated and understood images and videos.

Importing this loads neither torch nor transformers; names arrive when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from unified_reward.bench.run import run_benchmark
    from unified_reward.core.base_judge import BaseJudge as Judge
    from unified_reward.core.errors import UnifiedRewardError
    from unified_reward.core.extensions import Extra
    from unified_reward.core.samples import Image, Sample, Task, Video
    from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed
    from unified_reward.evaluate.run import evaluate_models
    from unified_reward.judges.registry import open_judge
    from unified_reward.pairs.export import export_pairs
    from unified_reward.pairs.make import make_pairs
    from unified_reward.train.dpo import align
    from unified_reward.train.judge import train_judge
    from unified_reward_client import RewardSet

__all__ = [
    "Failed",
    "Image",
    "Judge",
    "Preferred",
    "RewardSet",
    "Sample",
    "Scored",
    "Task",
    "UnifiedRewardError",
    "Unparsed",
    "Video",
    "align",
    "evaluate_models",
    "export_pairs",
    "make_pairs",
    "open_judge",
    "run_benchmark",
    "train_judge",
]
__version__ = "0.2.0"
_CLIENT = "unified_reward_client"
_HOMES = {
    "Failed": "core.verdicts",
    "Image": "core.samples",
    "Judge": "core.base_judge:BaseJudge",
    "Preferred": "core.verdicts",
    "RewardSet": _CLIENT,
    "Sample": "core.samples",
    "Scored": "core.verdicts",
    "Task": "core.samples",
    "UnifiedRewardError": "core.errors",
    "Unparsed": "core.verdicts",
    "Video": "core.samples",
    "align": "train.dpo",
    "evaluate_models": "evaluate.run",
    "export_pairs": "pairs.export",
    "make_pairs": "pairs.make",
    "open_judge": "judges.registry",
    "run_benchmark": "bench.run",
    "train_judge": "train.judge",
}
"""Module of each public name: the client's, or below this package; ``:NAME`` where it has another
name there."""
_EXTRAS: dict[str, Extra] = {
    "align": "train",
    "evaluate_models": "bench",
    "run_benchmark": "bench",
    "train_judge": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unified_reward' has no attribute {name!r}")
    module, _, own_name = _HOMES[name].partition(":")
    from unified_reward.core.extensions import extra

    with extra(_EXTRAS.get(name, "local")):
        home = import_module(module if module == _CLIENT else f"unified_reward.{module}")
    return getattr(home, own_name or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
