"""Figures of the study of voting, from the points of its judges on the same test pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_reward_lab.bench.oracle import mean_known


_RESAMPLES = 1000
_Curves = np.ndarray[Any, np.dtype[np.float64]]


def build_report(
    votes: Sequence[int],
    before: Mapping[str, Any],
    done: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    prompts: Sequence[str],
) -> dict[str, Any]:
    """Collect the figures.

    Args:
        votes: Numbers of votes.
        before: Result of the judge before any vote.
        done: Results by arm, seed and number of votes. The first arm is the reference; others are
            compared with as many of its seeds as they have.
        prompts: Caption of each test pair; intervals are over captions.

    Returns:
        ``before``: accuracy; by arm and number of votes the ``accuracy`` over seeds, ``by_seed``,
        the ``gain`` over before, the lead over the reference (``ahead``), and the shares of
        ``ties`` and of ``wrong`` votes; by arm and number of votes of the reference, the votes
        that reach the same accuracy (``needed``).
    """
    points = {
        arm: np.array([[result["points"] for result in rounds] for rounds in seeds])
        for arm, seeds in done.items()
    }
    reference = next(iter(points.values()))
    start = np.array(before["points"])
    arms: dict[str, Any] = {}
    for arm, found in points.items():
        arms[arm] = {}
        for i, n in enumerate(votes):
            mean = found[:, i].mean(axis=0)
            results = [rounds[i] for rounds in done[arm]]
            arms[arm][str(n)] = {
                "accuracy": _mean(mean, prompts),
                "by_seed": [round(float(each), 4) for each in found[:, i].mean(axis=1)],
                "gain": _mean(mean - start, prompts),
                "ahead": _mean(mean - reference[: len(found), i].mean(axis=0), prompts),
                "ties": round(float(np.mean([result["ties"] for result in results])), 4),
                "wrong": round(float(np.mean([result["wrong"] for result in results])), 4),
            }

    def curve(found: _Curves) -> _Curves:
        return np.vstack([start, found.mean(axis=0)])

    return {
        "name": "voting",
        "n": len(prompts),
        "n_unparsed": 0,
        "n_failed": 0,
        "before": _mean(start, prompts),
        "arms": arms,
        "needed": {
            arm: _needed(votes, curve(reference[: len(found)]), curve(found), prompts)
            for arm, found in points.items()
            if found is not reference
        },
    }


def _mean(points: _Curves, prompts: Sequence[str]) -> dict[str, Any]:
    return mean_known(points.tolist(), prompts)


def _needed(
    votes: Sequence[int], reference: _Curves, curve: _Curves, prompts: Sequence[str]
) -> dict[str, Any]:
    """Votes by which an arm is as accurate as the reference, by the reference's number of votes.

    Returns:
        ``value``, None if the arm never is; ``ci95`` over prompts, an end of it likewise.
    """
    places = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    owner = np.array([places[prompt] for prompt in prompts])
    rng = np.random.default_rng(0)
    weights = [np.ones(len(prompts))]
    for _ in range(_RESAMPLES):
        counts = np.bincount(rng.integers(len(places), size=len(places)), minlength=len(places))
        weights.append(counts[owner].astype(float))
    found = np.array(
        [
            votes_to_reach(votes, curve @ weight / weight.sum(), reference @ weight / weight.sum())
            for weight in weights
        ]
    )
    # A percentile between a number and infinity is infinite.
    low, high = np.percentile(found[1:], [2.5, 97.5], axis=0, method="nearest")
    return {
        str(n): {
            "value": _finite(found[0, i]),
            "ci95": [_finite(low[i]), _finite(high[i])],
        }
        for i, n in enumerate(votes)
    }


def _finite(value: float) -> int | None:
    return round(float(value)) if np.isfinite(value) else None


def votes_to_reach(
    votes: Sequence[int], curve: Sequence[float] | _Curves, targets: Sequence[float] | _Curves
) -> list[float]:
    """Votes by which a curve first reaches each target, interpolated; infinite if it never does.

    Args:
        votes: Numbers of votes, increasing.
        curve: Accuracy without votes, then after each number of votes.
        targets: Likewise, of which those after votes are reached.

    >>> votes_to_reach([100, 200], [0.25, 0.5, 0.75], [0.25, 0.625, 0.8])
    [150.0, inf]
    """
    xs = np.array([0, *votes], float)
    best = np.maximum.accumulate(np.asarray(curve, float))
    reached: list[float] = []
    for target in np.asarray(targets, float)[1:]:
        after = int(np.searchsorted(best, target))
        if after == len(best):
            reached.append(float("inf"))
        elif after == 0:
            reached.append(0.0)
        else:
            low, high = best[after - 1], best[after]
            share = (target - low) / (high - low)
            reached.append(float(xs[after - 1] + share * (xs[after] - xs[after - 1])))
    return reached
