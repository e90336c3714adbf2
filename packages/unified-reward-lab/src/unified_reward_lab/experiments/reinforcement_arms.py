"""Arms of the study of reinforcement learning: settings, chosen on training captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unified_reward.core.samples import Task
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.grpo_config import DiffusionGRPO, NFTOptions
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.experiments.reinforcement_rewards import Handling


@dataclass(frozen=True)
class Pairs:
    """DPO on pairs by rank+sift, with ten candidates of each prompt."""

    prompts: int
    dpo: DiffusionDPO
    n: int = 10

    @property
    def questions(self) -> int:
        """Questions to the judge: a score of each candidate, n/2 comparisons in both orders."""
        return self.prompts * (self.n + self.n // 2 * 2)


@dataclass(frozen=True)
class Arm:
    """One kind of training."""

    name: str
    task: Task
    method: DiffusionGRPO | Pairs
    seeds: int
    """Number of trainings, with seeds 0, 1, …"""
    rewards: tuple[str, ...] = ("unified",)
    """Judges by name, see `make_judge`."""
    failed: float = 0.0
    """Share of failed rewards."""
    handling: Handling = "left_out"


_IMAGE, _VIDEO = Task.IMAGE_GENERATION, Task.VIDEO_GENERATION


def _rl(steps: int, lr: float, **options: object) -> DiffusionGRPO:
    optim = OptimConfig(steps=steps, batch_size=16, accumulate=1, lr=lr, warmup=0.1, lora_rank=16)
    return DiffusionGRPO(optim, **({"group": 16, "prompts_per_step": 2} | options))  # type: ignore[arg-type]


def _dpo(steps: int, lr: float) -> DiffusionDPO:
    """As in the study of alignment but for the number of steps."""
    optim = OptimConfig(steps=steps, batch_size=32, accumulate=1, lr=lr, warmup=0.1, lora_rank=16)
    return DiffusionDPO(optim, beta=1000.0, weighting="noise")


_GRPO = _rl(30, 1e-3, window=4, window_range=(0, 5))
_NFT = _rl(30, 1e-3, algorithm="nft")
_LONG = _rl(60, 3e-3, algorithm="nft", held_out=16, held_out_every=10)
_NEAR = NFTOptions(penalty=1.0)
_ANCHORED = replace(_LONG, nft=_NEAR)
_MEASURED = {"held_out": 16, "held_out_every": 30}
_LARGE_GRPO = _rl(300, 1e-3, window=4, window_range=(0, 5), **_MEASURED)
_LARGE_NFT = replace(_rl(300, 3e-3, algorithm="nft", **_MEASURED), nft=_NEAR)
_VIDEO_GRPO = _rl(16, 5e-4, window=4, window_range=(0, 5))
_VIDEO_NFT = _rl(16, 5e-4, algorithm="nft")

_ARMS: Sequence[Arm] = (
    Arm("grpo", _IMAGE, _GRPO, 4),
    Arm("nft", _IMAGE, _NFT, 4),
    Arm("dpo-equal-judge", _IMAGE, Pairs(48, _dpo(150, 1e-3)), 4),
    Arm("dpo-equal-network", _IMAGE, Pairs(96, _dpo(48, 1e-3)), 4),
    Arm("left_out", _IMAGE, _NFT, 4, failed=0.05),
    Arm("zero", _IMAGE, _NFT, 4, failed=0.05, handling="zero"),
    Arm("group_mean", _IMAGE, _NFT, 4, failed=0.05, handling="group_mean"),
    Arm("long-one", _IMAGE, _LONG, 4),
    Arm("long-two", _IMAGE, _LONG, 4, ("unified", "clip")),
    Arm("long-penalty", _IMAGE, _ANCHORED, 4),
    Arm("long-voted", _IMAGE, _LONG, 4, ("voted",)),
    Arm("long-floor", _IMAGE, replace(_LONG, min_spread=0.25), 4),
    Arm("long-left_out", _IMAGE, _ANCHORED, 4, failed=0.05),
    Arm("long-zero", _IMAGE, _ANCHORED, 4, failed=0.05, handling="zero"),
    Arm("long-group_mean", _IMAGE, _ANCHORED, 4, failed=0.05, handling="group_mean"),
    Arm("grpo-large", _IMAGE, _LARGE_GRPO, 4),
    Arm("nft-large", _IMAGE, _LARGE_NFT, 4),
    Arm("dpo-large", _IMAGE, Pairs(480, _dpo(300, 1e-3)), 4),
    Arm("clip", _IMAGE, _NFT, 2, ("clip",)),
    Arm("specialist", _IMAGE, _NFT, 2, ("specialist",)),
    Arm("joint", _IMAGE, _NFT, 2, ("joint",)),
    Arm("video-grpo", _VIDEO, _VIDEO_GRPO, 2),
    Arm("video-nft", _VIDEO, _VIDEO_NFT, 2),
    Arm("video-dpo-equal-judge", _VIDEO, Pairs(26, _dpo(60, 5e-4)), 2),
)
ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _ARMS}
PARTS: Mapping[str, tuple[str, ...]] = {
    "algorithms": ("grpo", "nft", "dpo-equal-judge", "dpo-equal-network"),
    "failures": ("nft", "left_out", "zero", "group_mean"),
    "over-optimisation": ("long-one", "long-two", "long-penalty", "long-voted", "long-floor"),
    "algorithms-large": ("grpo-large", "nft-large", "dpo-large"),
    "rewards": ("clip", "specialist", "joint", "nft"),
    "failures-long": ("long-penalty", "long-left_out", "long-zero", "long-group_mean"),
    "equal-cost": ("long-penalty", "dpo-equal-network"),
    "videos": ("video-grpo", "video-nft", "video-dpo-equal-judge"),
}
"""Arms of each question, by name."""
EXAMINERS: Mapping[str, tuple[str, ...]] = {
    "algorithms": ("unified", "scalar"),
    "failures": ("unified",),
    "over-optimisation": ("unified", "scalar"),
    "algorithms-large": ("unified", "scalar"),
    "rewards": ("unified", "scalar", "clip", "specialist", "joint"),
    "failures-long": ("unified", "scalar"),
    "equal-cost": ("unified", "scalar"),
    "videos": ("unified", "scalar"),
}
"""Judges that score the exams of a question, by name."""
