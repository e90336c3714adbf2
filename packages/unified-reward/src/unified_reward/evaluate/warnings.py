"""Warnings about figures of an evaluation that may be the judges' noise, or rest on little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any, Literal


Kind = Literal["order", "reading", "disagreement", "few"]
FEW_PROMPTS = 20
"""Fewer prompts than this are few."""
LOST_SHARE = 0.1
"""Share of a model's outputs that may be missing without a warning."""
_Z95 = 1.959963984540054


def find_warnings(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find what the figures of a report do not bear out.

    - ``order``: the lead of a model over the baseline, ``|win_rate - 0.5|``, is below half the
      share of comparisons whose winner changes with the order.
    - ``reading``: a difference is below ``1.96 sigma sqrt(2 / n)`` of a mean over n outputs whose
      readings deviate by sigma.
    - ``disagreement``: two rewards point in opposite directions, and at least one is sure of it.
    - ``few``: fewer than 20 prompts, or more than 10 % of the outputs of a model without a value;
      by a judge that only compares, of the prompts without one of the model's comparisons.

    Args:
        report: Report of `evaluate_models`, without its warnings.

    Returns:
        Rows with ``kind``, ``model`` and ``reward``, null where it is about all, and ``text``.
    """
    return [*_few(report), *_order(report), *_reading(report), *_disagreement(report)]


def _warning(kind: Kind, text: str, model: str | None, reward: str | None) -> dict[str, Any]:
    return {"kind": kind, "model": model, "reward": reward, "text": text}


def _few(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if report["prompts"] < FEW_PROMPTS:
        n = report["prompts"]
        are = "prompt is" if n == 1 else "prompts are"
        text = f"{n} {are} few: intervals of so few are themselves unsure"
        yield _warning("few", text, None, None)
    for model, reward in product(report["models"], report["rewards"]):
        if report["judges"][reward]["kind"] == "win_rate":
            yield from _few_comparisons(report, model, reward)
            continue
        figures = report["models"][model].get(reward)
        kept = figures["outputs"] if figures else 0
        lost = sum(
            row["model"] == model and row["reward"] in ("", reward) and row["kind"] != "unmatched"
            for row in report["missing"]
        )
        if lost > LOST_SHARE * (lost + kept):
            text = (
                f"{lost} of {lost + kept} outputs of {model} have no value by {reward}; if they "
                "are the bad ones, it looks better than it is"
            )
            yield _warning("few", text, model, reward)


def _few_comparisons(
    report: Mapping[str, Any], model: str, reward: str
) -> Iterator[dict[str, Any]]:
    """Count prompts, since a comparison that is lost belongs to two models."""
    lost = {
        row["prompt"]
        for row in report["missing"]
        if model in row["model"].split("|")
        and row["reward"] in ("", reward)
        and row["kind"] not in ("unmatched", "duplicate")
    }
    if len(lost) > LOST_SHARE * report["prompts"]:
        text = (
            f"{model} lacks comparisons by {reward} for {len(lost)} of {report['prompts']} "
            "prompts; if its outputs for these are the bad ones, it looks better than it is"
        )
        yield _warning("few", text, model, reward)


def _paired(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for model, by_reward in report["paired"].items():
        for reward, figures in by_reward.items():
            yield model, reward, figures


def _order(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model, reward, figures in _paired(report):
        win_rate, flips = figures["win_rate"], figures["flips"]
        if win_rate is None or not flips or abs(win_rate - 0.5) >= flips / 2:
            continue
        text = (
            f"{model} wins {win_rate:.0%} against {report['baseline']} by {reward}, whose winner "
            f"changes with the order in {flips:.0%} of the comparisons: the order decides more of "
            "them than the models do"
        )
        yield _warning("order", text, model, reward)


def _reading(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model, reward, figures in _paired(report):
        sigma, difference = report["judges"][reward]["reading_sigma"], figures["difference"]
        if not sigma or difference is None:
            continue
        pair = (model, report["baseline"])
        n = min(report["models"][name][reward]["outputs"] for name in pair)
        noise = _Z95 * sigma * math.sqrt(2 / n)
        if abs(difference) < noise:
            text = (
                f"{model} differs from {report['baseline']} by {difference:+.3g} of {reward}, and "
                f"readings of the same {n} outputs by up to {noise:.3g}: ask for more readings"
            )
            yield _warning("reading", text, model, reward)


def _disagreement(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model, by_reward in report["paired"].items():
        for (first, a), (second, b) in combinations(by_reward.items(), 2):
            is_sure = [_excludes_zero(figures["ci95"]) for figures in (a, b)]
            opposite = (a["difference"] or 0) * (b["difference"] or 0) < 0
            if not opposite or not any(is_sure):
                continue
            better, worse = (first, second) if a["difference"] > 0 else (second, first)
            words = (
                "both beyond their intervals: they reward different things"
                if all(is_sure)
                else "one of them beyond its interval"
            )
            text = f"{model} is better than {report['baseline']} by {better} and worse by {worse}"
            yield _warning("disagreement", f"{text}, {words}", model, None)


def _excludes_zero(ci95: list[float] | None) -> bool:
    return ci95 is not None and None not in ci95 and not ci95[0] <= 0 <= ci95[1]
