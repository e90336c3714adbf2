"""Judges and policy that take turns on one device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, one_line


class Turns:
    """Networks of judges, in main memory except while they judge; then those of the policy are."""

    def __init__(self, rewards: Mapping[str, Any], device: torch.device) -> None:
        """Move the judges to main memory.

        Args:
            rewards: Rewards by name; those that are no local judges are left alone.
            device: Device of the policy, and of the judges while they judge.

        Raises:
            ConfigError: No reward is a local judge, or a judge cannot be moved.
        """
        judges = [each for each in rewards.values() if isinstance(each, BaseJudge)]
        self._judges = [network for judge in judges for network in judge.networks()]
        if not self._judges:
            raise ConfigError(
                f"offload: none of {', '.join(rewards)} is a judge in this process; leave it out"
            )
        self._device, self._policy = device, list[Any]()
        self._move(self._judges, "cpu")

    def add_policy(self, pipeline: Any) -> None:
        """Let the networks of a policy's pipeline take turns with the judges."""
        parts = pipeline.components.values()
        self._policy = [part for part in parts if isinstance(part, nn.Module)]

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Have the judges on the device, and the policy in main memory, until the block ends."""
        self._move(self._policy, "cpu")
        self._move(self._judges, self._device)
        try:
            yield
        finally:
            self._move(self._judges, "cpu")
            self._move(self._policy, self._device)

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
