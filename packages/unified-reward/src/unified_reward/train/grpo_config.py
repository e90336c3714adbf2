"""Settings of the reinforcement learning of a pipeline from rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from unified_reward.core.errors import ConfigError
from unified_reward.policies import Denoising
from unified_reward.policies.step_rules import RuleName
from unified_reward.train.optim import OptimConfig
from unified_reward.train.precision import Dtype, MixedPrecision, check_dtype


@dataclass(frozen=True)
class NFTOptions:
    """Settings of DiffusionNFT (arXiv:2509.16117)."""

    beta: float = 1.0
    """Strength of the implicit policies, > 0; published: 1, and 0.1 for several rewards."""
    penalty: float = 1e-4
    """Weight of the squared distance to the prediction of the reference, >= 0."""
    draws: int = 1
    """Timesteps that are trained of each sample in an optimiser step, each in a pass; >= 1."""
    decay_rate: float = 1e-3
    """After step n the old policy keeps ``min(decay_rate n, decay_limit)`` of its weights."""
    decay_limit: float = 0.5
    """In [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ConfigError(f"nft.beta must be above 0, not {self.beta}")
        if not (0 <= self.penalty < math.inf and 0 <= self.decay_rate < math.inf):
            raise ConfigError("nft.penalty and nft.decay_rate must be 0 or more, and finite")
        if self.draws < 1:
            raise ConfigError(f"nft.draws must be at least 1, not {self.draws}")
        if not 0 <= self.decay_limit < 1:
            raise ConfigError(f"nft.decay_limit must be in [0, 1), not {self.decay_limit}")


@dataclass(frozen=True)
class DiffusionGRPO:
    """Settings of the reinforcement learning of a pipeline."""

    optim: OptimConfig
    """``steps`` counts rollouts, each followed by ``updates`` optimiser steps over all its groups;
    ``batch_size`` samples are made and trained in a batch, and ``accumulate`` must be 1."""
    algorithm: Literal["grpo", "nft", "draft"] = "grpo"
    """Policy gradient of recorded steps, DiffusionNFT on the sampled latents, or the gradients of
    the rewards through the last step (DRaFT-1, arXiv:2309.17400)."""
    group: int = 8
    """Samples of a prompt, >= 2; of draft >= 1."""
    prompts_per_step: int = 4
    """Groups of a step, >= 1."""
    updates: int = 1
    """Optimiser steps on the samples of a step, >= 1."""
    window: int = 2
    """Stochastic steps that are trained, >= 1; of grpo only, as all up to ``beta``."""
    window_range: tuple[int, int] | None = None
    """First and last index of steps that the window lies in; default the first half."""
    rule: RuleName = "ddim"
    """Step rule inside the window."""
    strength: float | None = None
    """Strength of the step rule, > 0; default the published one."""
    ratio: Literal["plain", "guarded"] = "plain"
    """Ratio of densities, as it is or by GRPO-Guard (arXiv:2510.22319), which with the rule
    ``flow`` also divides the loss of a step by its length."""
    clip: float = 1e-4
    """Clip range of the ratio, > 0."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference, >= 0; of draft, of the squared distance to
    its prediction of the last step."""
    nft: NFTOptions = field(default_factory=NFTOptions)
    sampling: Denoising = field(default_factory=Denoising)
    """Sampling options in place of those of the policy's folder, also in the result."""
    rollout: Denoising = field(default_factory=Denoising)
    """Sampling options of training where they differ, such as fewer steps and no guidance; those
    of held-out prompts, sheets and the result stay."""
    weights: tuple[float, ...] = ()
    """Weight of each reward; empty for 1."""
    min_spread: float = 0.0
    """Standard deviation of a reward in a group up to which differences are noise, >= 0."""
    opponents: int = 8
    """Most samples of its group that each is compared with, for win rates, >= 2."""
    held_out: int = 0
    """Prompts that are kept out of training."""
    held_out_every: int = 10
    """Steps between measurements of the reward of the held-out prompts, >= 1."""
    patience_s: float = 120.0
    """Seconds to wait for a reward server that does not answer."""
    precision: MixedPrecision | None = None
    """Mixed precision; None for bf16 on a GPU or with ``dtype`` bfloat16, else full precision."""
    dtype: Dtype | None = None
    """Type of frozen weights: text encoders, the network under adapters, and the autoencoder unless
    its config says ``force_upcast``. None for bfloat16 on a GPU, and float32 elsewhere, without
    adapters, or without mixed precision. Adapters are trained in float32."""
    samples_every: int = 0
    """Steps between sheets of samples of four prompts, written to ``samples``; 0 for none."""
    ema_decay: float = 0.0
    """Share of a moving average of the weights that is kept at most, in [0, 1); 0 for no average.
    What is measured, shown and written is the average. Published: 0.9 (arXiv:2505.05470)."""
    ema_every: int = 1
    """Optimiser steps between two updates of the average, >= 1; published: 8."""
    async_reward: bool = False
    """Ask for the rewards of a group while the next is sampled. They are the same as long as a
    judge's score of a sample does not depend on the samples it is asked with."""
    offload: bool = False
    """Keep local judges in main memory while the policy works, and the policy while they judge."""
    report_to: str | tuple[str, ...] = ()
    """Trackers, by accelerate's names: ``tensorboard``, ``wandb``, ``trackio``, …, or ``all``."""

    def __post_init__(self) -> None:
        least = {"group": self.least, "opponents": 2, "prompts_per_step": 1, "updates": 1}
        least |= {"window": 1, "held_out_every": 1, "held_out": 0, "samples_every": 0, "beta": 0}
        least |= {"min_spread": 0, "patience_s": 0, "ema_every": 1}
        for name, low in least.items():
            if not low <= (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be at least {low}, and finite, not {value}")
        self._check_loop()
        if not 0 < self.clip < math.inf:
            raise ConfigError(f"clip must be above 0, not {self.clip}")
        if self.strength is not None and not self.strength > 0:
            raise ConfigError("strength must be above 0: a step without noise has no density")
        if not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"weights must be finite numbers, not {self.weights}")
        if self.optim.accumulate != 1:
            raise ConfigError("optim.accumulate must be 1: a step accumulates over its groups")
        if self.optim.muon_lr:
            raise ConfigError("adapters are trained by AdamW only; leave optim.muon_lr at 0")
        if not self.optim.lora_rank:
            raise ConfigError("grpo trains adapters; give optim.lora_rank")
        check_dtype(self.dtype, self.precision, self.optim.lora_rank)

    @property
    def least(self) -> int:
        """Rewards that a group needs: two to compare, or one that has gradients."""
        return 1 if self.algorithm == "draft" else 2

    @property
    def trained_steps(self) -> int:
        """Steps of a sample that are repeated with gradients."""
        return {"grpo": self.window, "nft": 0, "draft": 1}[self.algorithm]

    def _check_loop(self) -> None:
        if self.offload and self.algorithm == "draft":
            raise ConfigError("draft needs policy and judge on the device at once; no offload")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.async_reward and self.offload:
            raise ConfigError(
                "async_reward and offload exclude each other: judge and policy work at the same "
                "time, or take turns on the device"
            )
