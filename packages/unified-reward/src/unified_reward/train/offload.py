"""Judges and policy that take turns on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, one_line
from unified_reward.train.group_rewards import GroupRewards


class Turns:
    """Networks of judges, in main memory except while they judge; then those of a policy are."""

    def __init__(self, device: torch.device, *rewards: GroupRewards | None) -> None:
        """Move the judges to main memory.

        Args:
            device: Device of the policy, and of the judges while they judge.
            rewards: Rewards; those that are no local judges are left alone.

        Raises:
            ConfigError: No reward is a local judge, or a judge cannot be moved.
        """
        sources = {name: s for each in rewards if each for name, s in each.sources.items()}
        judges = [each for each in sources.values() if isinstance(each, BaseJudge)]
        self._judges = [network for judge in judges for network in judge.networks()]
        if not self._judges:
            raise ConfigError(
                f"offload: none of {', '.join(sources)} is a judge in this process; leave it out"
            )
        self._device = device
        self._move(self._judges, "cpu")

    @contextmanager
    def judging(self, pipeline: Any) -> Iterator[None]:
        """Have the judges on the device, and the policy in main memory, until the block ends."""
        policy = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
        self._move(policy, "cpu")
        self._move(self._judges, self._device)
        try:
            yield
        finally:
            self._move(self._judges, "cpu")
            self._move(policy, self._device)

    def _move(self, networks: Sequence[Any], device: torch.device | str) -> None:
        for network in networks:
            try:
                network.to(device)
            except (ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"offload: {type(network).__name__} cannot be moved to {device}: "
                    f"{one_line(error)}"
                ) from error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
