"""Win rates in a group, from the comparisons of a judge (Pref-GRPO, arXiv:2508.20751)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import unified_reward_client as wire
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict


def meetings(n: int, most: int) -> list[tuple[int, int]]:
    """Pairs of n samples in which each meets equally many others.

    They stand in a ring, and each meets its next neighbours. Samples of a group come in no order,
    so that these are random opponents.

    Args:
        n: Number of samples.
        most: Most opponents of each, >= 2; one less where an odd number of opponents and an odd
            number of samples make no pairs.

    >>> meetings(3, 2)
    [(0, 1), (1, 2), (2, 0)]
    >>> meetings(4, 2)
    [(0, 1), (1, 2), (2, 3), (3, 0)]
    """
    opponents = max(0, min(most, n - 1))
    opponents -= opponents % 2 and n % 2
    ring = [(i, (i + step) % n) for step in range(1, opponents // 2 + 1) for i in range(n)]
    return ring + ([(i, i + n // 2) for i in range(n // 2)] if opponents % 2 else [])


def comparisons(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Questions which of two samples of a prompt is better, by `meetings`."""
    return [
        replace(samples[a], candidates=samples[a].candidates + samples[b].candidates)
        for a, b in meetings(len(samples), most)
    ]


def win_rates(n: int, most: int, verdicts: Sequence[Verdict]) -> tuple[list[wire.Reward], int]:
    """Mean probability of each sample to win, a tie counted half.

    Args:
        n: Number of samples.
        most: Most opponents of each.
        verdicts: Of each comparison. One that failed or is unparsed is left out of the means.

    Returns:
        A reward of each sample, without a value where no comparison of it could be read, and the
        number of comparisons that were left out.
    """
    shares: list[list[float]] = [[] for _ in range(n)]
    reasons = ["there is no other sample to compare with"] * n
    n_failed = 0
    for (a, b), verdict in zip(meetings(n, most), verdicts, strict=True):
        if isinstance(verdict, Preferred):
            shares[a].append(verdict.probability)
            shares[b].append(1 - verdict.probability)
            continue
        n_failed += 1
        reasons[a] = reasons[b] = _reason(verdict)
    rewards = [
        wire.Reward(sum(won) / len(won)) if won else wire.Reward(None, reason)
        for won, reason in zip(shares, reasons, strict=True)
    ]
    return rewards, n_failed


def _reason(verdict: Verdict) -> str:
    match verdict:
        case Failed(reason=reason) | Unparsed(reason=reason):
            return f"no comparison could be read: {reason}"
        case _:
            return f"the judge answered a comparison with {type(verdict).__name__}"
