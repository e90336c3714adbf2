"""Losses of scalar reward models: pure functions of tensors, in nats, meaned over the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus


RANKING_TEMPERATURE = 0.1
"""Of the whole scale: what a difference of expected scores is divided by before it is ranked."""


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


def expected_share(logits: Tensor, is_step: Tensor) -> Tensor:
    """The score a judge is expected to say, 0 at the lowest step of its scale and 1 at the highest.

    Args:
        logits: Of the steps, ascending and evenly spaced, shape (B, C).
        is_step: Which of them a row has, the first ones; at least two, or none (then it is 0).
    """
    n = is_step.sum(-1, keepdim=True)
    place = torch.arange(logits.shape[-1], device=logits.device) / (n - 1).clamp(min=1)
    weights = logits.masked_fill(~is_step, torch.finfo(logits.dtype).min).softmax(-1)
    return (weights * is_step * place).sum(-1)


def score_ranking(first: Tensor, second: Tensor, outcome: Tensor) -> Tensor:
    """Bradley-Terry on two expected scores: ``d = (E1 - E2) / RANKING_TEMPERATURE``; not meaned.

    The pairwise cost of RankNet (Burges et al. 2005, doi:10.1145/1102351.1102363). The difference
    is bounded, so that a noiseless preference does not push scores to the ends of their scale.

    Args:
        first: Expected scores in [0, 1], shape (B,).
        second: Those they are held against, shape (B,).
        outcome: 1 where the first is better, 0 the second, 0.5 neither. Shape (B,).
    """
    difference = (first - second) / RANKING_TEMPERATURE
    return binary_cross_entropy_with_logits(difference, outcome, reduction="none")


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
