"""Processes of a training that divide its work: shares, common errors, sums of gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from unified_reward.core.errors import ModelError, UnifiedRewardError, one_line


_Item = TypeVar("_Item")


class Processes:
    """Processes that hold the same weights, each with a share of the samples.

    Every process calls every method, in the same order.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.n, self._index = accelerator.num_processes, accelerator.process_index
        self.is_first = accelerator.is_main_process

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Consecutive items that are this process's; numbers of items differ by 1 at most."""
        first, end = (len(items) * i // self.n for i in (self._index, self._index + 1))
        return items[first:end]

    def gather(self, items: Sequence[_Item]) -> list[_Item]:
        """Collect what every process made of its share, in the order of the items."""
        return gather_object([*items])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise in every process if the block raises in one, so that none waits for another.

        Raises:
            UnifiedRewardError: The block raised in another process: an error of the same class, or
                ModelError for one that is not of this package.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001  raised again below
            failure = error
        known = isinstance(failure, UnifiedRewardError)
        kind = type(failure) if known else ModelError
        failures = self.gather([failure and (self._index, kind, one_line(failure))])
        if failure:
            raise failure
        for index, kind, text in filter(None, failures):
            raise kind(f"{text} (in process {index})")

    def sum_gradients(self, weights: Sequence[Tensor], part: float) -> None:
        """Add up the gradients of all processes, in place.

        Args:
            weights: Weights; one without a gradient in every process stays so.
            part: Factor of the gradients of this process.
        """
        if self.n == 1:
            return
        gradients = [weight.grad for weight in weights]
        parts = [
            torch.zeros(weight.numel(), device=weight.device) if grad is None else grad.flatten()
            for weight, grad in zip(weights, gradients, strict=True)
        ]
        has_gradient = torch.tensor([grad is not None for grad in gradients]).to(parts[0])
        total = self._accelerator.reduce(torch.cat([has_gradient, *(part * g for g in parts)]))
        counts, *sums = torch.as_tensor(total).split([len(weights), *(len(g) for g in parts)])
        for weight, count, summed in zip(weights, counts.tolist(), sums, strict=True):
            weight.grad = summed.view_as(weight) if count else None
