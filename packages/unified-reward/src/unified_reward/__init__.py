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
    from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
    from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed
    from unified_reward.evaluate.inputs import read_models
    from unified_reward.evaluate.run import evaluate_models
    from unified_reward.io.candidate_files import save
    from unified_reward.judges.registry import open_judge
    from unified_reward.pairs.export import export_pairs
    from unified_reward.pairs.make import make_pairs, write_pairs
    from unified_reward.policies import load as load_policy
    from unified_reward.policies.candidates import make_candidates
    from unified_reward.train.dpo import align
    from unified_reward.train.dpo_diffusion import DiffusionDPO
    from unified_reward.train.dpo_vlm import VLMDPO
    from unified_reward.train.judge import JudgeTraining, train_judge
    from unified_reward.train.optim import OptimConfig
    from unified_reward.train.trl_reward import trl_reward
    from unified_reward_client import RewardSet

__all__ = [  # noqa: RUF022  in the order of `sorted`
    "DiffusionDPO",
    "Example",
    "Failed",
    "Image",
    "Judge",
    "JudgeTraining",
    "OptimConfig",
    "Preferred",
    "RewardSet",
    "Sample",
    "Scored",
    "Target",
    "Task",
    "UnifiedRewardError",
    "Unparsed",
    "VLMDPO",
    "Video",
    "align",
    "evaluate_models",
    "export_pairs",
    "load_policy",
    "make_candidates",
    "make_pairs",
    "open_judge",
    "read_models",
    "run_benchmark",
    "save",
    "train_judge",
    "trl_reward",
    "write_pairs",
]
__version__ = "0.2.0"
_CLIENT = "unified_reward_client"
_HOMES = {
    "DiffusionDPO": "train.dpo_diffusion",
    "Example": "core.samples",
    "Failed": "core.verdicts",
    "Image": "core.samples",
    "Judge": "core.base_judge:BaseJudge",
    "JudgeTraining": "train.judge",
    "OptimConfig": "train.optim",
    "Preferred": "core.verdicts",
    "RewardSet": _CLIENT,
    "Sample": "core.samples",
    "Scored": "core.verdicts",
    "Target": "core.samples",
    "Task": "core.samples",
    "UnifiedRewardError": "core.errors",
    "Unparsed": "core.verdicts",
    "VLMDPO": "train.dpo_vlm",
    "Video": "core.samples",
    "align": "train.dpo",
    "evaluate_models": "evaluate.run",
    "export_pairs": "pairs.export",
    "load_policy": "policies:load",
    "make_candidates": "policies.candidates",
    "make_pairs": "pairs.make",
    "open_judge": "judges.registry",
    "read_models": "evaluate.inputs",
    "run_benchmark": "bench.run",
    "save": "io.candidate_files",
    "train_judge": "train.judge",
    "trl_reward": "train.trl_reward",
    "write_pairs": "pairs.make",
}
"""Module of each public name: the client's, or below this package; ``:NAME`` where it has another
name there."""
_EXTRAS: dict[str, Extra] = {
    "DiffusionDPO": "train",
    "JudgeTraining": "train",
    "OptimConfig": "train",
    "VLMDPO": "train",
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
