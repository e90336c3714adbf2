"""Standings of an arena: models, raters, and the judge against people. Pure functions.

Votes on gold items and repeats test the raters and nothing else. A vote for both bad counts as a
tie, and one that cannot tell says nothing. Intervals are over prompts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from unified_reward.data.sources.annotated import krippendorff_alpha
from unified_reward.evaluate.bradley_terry import fit_bradley_terry
from unified_reward.evaluate.estimates import (
    mean_estimate,
    prompt_key,
    prompt_means,
    share_estimate,
    vote_comparisons,
    win_rate,
    win_shares,
)
from unified_reward.evaluate.outputs import Comparison, model_pairs
from unified_reward.io.vote_rows import CHOICES, WIN_SHARE, Vote, has_same_outcome


_STARS = (1.0, 5.0)
_N_DISAGREEMENTS = 20


def standings(
    votes: Sequence[Vote],
    models: Sequence[str],
    judge: Mapping[str, float] | None = None,
    *,
    needed: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Summarise the votes as JSON.

    Args:
        votes: Votes that count, as `io.vote_rows.read_votes` gives them.
        models: Models to rank; votes on other pairs rank none.
        judge: Probability that the first candidate is better, by id of the item.
        needed: Number of votes due by id of the item, without gold items.
    """
    counted = [vote for vote in votes if vote.gold is None and not vote.repeats]
    on_models = [vote for vote in counted if {vote.a, vote.b} <= {*models}]
    comparisons = vote_comparisons(on_models)
    return {
        "votes": {
            "n": len(counted),
            **{choice: sum(vote.vote == choice for vote in counted) for choice in CHOICES},
            "gold": sum(vote.gold is not None for vote in votes),
            "repeats": sum(bool(vote.repeats) for vote in votes),
        },
        "raters": _raters(votes),
        "models": _models(models, comparisons),
        "models_reason": _models_reason(models, len(counted) - len(on_models)),
        "win_rates": _win_rates(models, comparisons),
        "agreement": _agreement(counted),
        "judge": None if judge is None else _judge(counted, judge),
        "aspects": _aspects(on_models),
        "progress": _progress(counted, needed),
    }


def _models_reason(models: Sequence[str], n_others: int) -> str:
    if not models:
        return "the pairs name no models, so none are ranked"
    return f"votes on other pairs, which rank no models: {n_others}" if n_others else ""


def _models(models: Sequence[str], comparisons: list[Comparison]) -> dict[str, Any]:
    rows = fit_bradley_terry(models, comparisons).rows()
    for model, row in rows.items():
        rate = share_estimate(prompt_means(win_shares(comparisons, model)))
        row |= {"win_rate": rate.value, "win_rate_ci95": rate.row()["ci95"], "n": rate.n}
    return rows


def _win_rates(models: Sequence[str], comparisons: list[Comparison]) -> dict[str, Any]:
    rates: dict[str, dict[str, Any]] = {model: {} for model in models}
    for a, b in model_pairs([*models]):
        for model, other in ((a, b), (b, a)):
            rate = win_rate(comparisons, model, other)
            if rate.n:
                rates[model][other] = rate.row()
    return rates


def _raters(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    by_rater: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_rater[vote.rater].append(vote)
    return [_rater(name, by_rater[name]) for name in sorted(by_rater)]


def _rater(name: str, votes: list[Vote]) -> dict[str, Any]:
    first = {vote.id: vote for vote in votes}
    gold = [has_same_outcome(vote.vote, vote.gold) for vote in votes if vote.gold is not None]
    repeats = [
        has_same_outcome(vote.vote, first[vote.repeats].vote)
        for vote in votes
        if vote.repeats in first
    ]
    left = [(vote.vote == "a") == (vote.order == "ab") for vote in votes if vote.vote in ("a", "b")]
    return {
        "name": name,
        "n": len(votes),
        "gold": {"right": sum(gold), "n": len(gold)},
        "repeats": {"consistent": sum(repeats), "n": len(repeats)},
        "left_share": sum(left) / len(left) if left else None,
        "seconds": median(vote.seconds for vote in votes),
        "cannot_tell": sum(vote.vote == "cannot_tell" for vote in votes),
    }


def _agreement(votes: Iterable[Vote]) -> dict[str, Any]:
    decided = [vote for vote in votes if vote.vote in WIN_SHARE]
    items: defaultdict[str, Counter[float]] = defaultdict(Counter)
    for vote in decided:
        items[vote.id][WIN_SHARE[str(vote.vote)]] += 1
    alpha, reason = krippendorff_alpha(items.values(), "nominal")
    return {
        "alpha": alpha,
        "reason": reason,
        "items": sum(counts.total() > 1 for counts in items.values()),
        "raters": len({vote.rater for vote in decided}),
        "votes": len(decided),
    }


def _judge(votes: Sequence[Vote], judge: Mapping[str, float]) -> dict[str, Any]:
    items: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.vote in WIN_SHARE and vote.id in judge:
            items[vote.id].append(vote)
    points: defaultdict[str, list[float]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    for item, each in items.items():
        [people], verdict = vote_comparisons(each), judge[item]
        share = people.probability
        row = {"id": item, "prompt": each[0].example.prompt, "a": people.a, "b": people.b}
        rows.append(row | {"people": share, "judge": verdict, "votes": len(each)})
        if share != 0.5:
            is_right = (verdict > 0.5) == (share > 0.5)
            points[people.prompt].append(0.5 if verdict == 0.5 else float(is_right))
    rows.sort(key=lambda row: -abs(row["people"] - row["judge"]))
    return {
        "accuracy": share_estimate(prompt_means(points)).row(),
        "items": sum(map(len, points.values())),
        "disagreements": [row for row in rows if row["people"] != row["judge"]][:_N_DISAGREEMENTS],
    }


def _aspects(votes: Iterable[Vote]) -> dict[str, Any]:
    stars: defaultdict[tuple[str, str], defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for vote in votes:
        for aspect, pair in vote.aspects.items():
            for model, value in zip((vote.a, vote.b), pair, strict=True):
                stars[aspect, model][prompt_key(vote.example)].append(value)
    rows: dict[str, dict[str, Any]] = {}
    for (aspect, model), values in stars.items():
        rows.setdefault(aspect, {})[model] = mean_estimate(prompt_means(values), _STARS).row("mean")
    return rows


def _progress(votes: Iterable[Vote], needed: Mapping[str, int] | None) -> dict[str, Any]:
    """Votes on the items that are asked, of each at most those due; without ``needed`` all."""
    n = Counter(vote.id for vote in votes)
    if needed is None:
        return {"votes": n.total(), "items": len(n), "complete": None, "needed": None}
    return {
        "votes": sum(min(n[item], due) for item, due in needed.items()),
        "items": len(needed),
        "complete": sum(n[item] >= due for item, due in needed.items()),
        "needed": sum(needed.values()),
    }
