"""Losses of scalar reward models: pure functions of tensors, in nats, meaned over the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


def bradley_terry(difference: Tensor, outcome: Tensor) -> Tensor:
    """``-o log sigmoid(d) - (1 - o) log sigmoid(-d)``: Bradley and Terry 1952, doi:10.2307/2334029.

    Args:
        difference: Value of the first minus value of the second, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 a tie; a share between. Shape (B,).
    """
    return -(outcome * logsigmoid(difference) + (1 - outcome) * logsigmoid(-difference)).mean()


def rao_kupper(difference: Tensor, outcome: Tensor, margin: Tensor) -> Tensor:
    """Bradley-Terry with ties: Rao and Kupper 1967, doi:10.2307/2282923, theta = exp(margin).

    ``P(first) = sigmoid(d - e)``, ``P(second) = sigmoid(-d - e)`` and
    ``P(tie) = (exp(2 e) - 1) P(first) P(second)``.

    Args:
        difference: Value of the first minus value of the second, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 a tie. Shape (B,).
        margin: ``e`` > 0, a scalar; learned.
    """
    first, second = logsigmoid(difference - margin), logsigmoid(-difference - margin)
    tie = torch.log(torch.expm1(2 * margin)) + first + second
    told = torch.where(outcome == 1, first, torch.where(outcome == 0, second, tie))
    return -told.mean()


def regression(value: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy of ``sigmoid(value)`` with a score in [0, 1]; least where the two are equal.

    Args:
        value: Values on the axis of log-odds, shape (B,).
        share: Normalised scores, shape (B,).
    """
    return bradley_terry(value, share)


def uncertain_regression(value: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of a score's log-odds; both moments are learned.

    Nix and Weigend 1994, doi:10.1109/ICNN.1994.374138. Scores nearer than 0.02 to an end count as
    that far from it, since the log-odds of the ends are infinite.

    Args:
        value: Means on the axis of log-odds, shape (B,).
        sigma: Standard deviations > 0, shape (B,).
        share: Normalised scores in [0, 1], shape (B,).
    """
    target = torch.logit(share, eps=0.02)
    return (((target - value) / sigma) ** 2 / 2 + sigma.log()).mean()


def narrowed(mean: Tensor, variance: Tensor) -> Tensor:
    """``m / sqrt(1 + pi v / 8)``: its sigmoid is nearly the mean of sigmoid over N(m, v).

    MacKay 1992, doi:10.1162/neco.1992.4.5.720.
    """
    return mean / torch.sqrt(1 + math.pi * variance / 8)


def positive(raw: Tensor) -> Tensor:
    """An unbounded parameter as a number above 0."""
    return softplus(raw) + 1e-3
