"""The report of an evaluation, as JSON: every figure with its interval over prompts.

Figures that do not exist are null. What is listed under ``missing`` takes part in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any, NamedTuple

from unified_reward.core.verdicts import Failed, Unparsed
from unified_reward.evaluate.answers import RewardAnswers
from unified_reward.evaluate.bradley_terry import BradleyTerry, fit_bradley_terry
from unified_reward.evaluate.estimates import (
    NO_ENDS,
    AverageRate,
    Ends,
    Estimate,
    Scores,
    between,
    correlate,
    flip_share,
    mean_estimate,
    median_estimate,
    paired_difference,
    prompt_key,
    prompt_means,
    score_comparisons,
    shares_against_all,
    spread_estimate,
    vote_comparisons,
    win_rate,
    win_shares,
)
from unified_reward.evaluate.outputs import Comparison, ModelOutputs, model_pairs
from unified_reward.evaluate.prediction_powered import prediction_powered
from unified_reward.evaluate.warnings import find_warnings
from unified_reward.io.vote_rows import Vote


_N_DIFFERENT = 12
Means = Mapping[str, Mapping[str, float]]
"""Mean value by model and prompt."""


class Reward(NamedTuple):
    """A reward with its judge."""

    reference: str
    """Reference that the judge was opened by."""
    judge: str
    family: str
    answers: RewardAnswers
    budget: Mapping[str, Any] | None = None
    """Calls within a budget, see `evaluate.budget`; None without one."""


class Figures(NamedTuple):
    """Values of a reward, per prompt."""

    means: Means
    """Mean score of each model's outputs; of a judge that only compares, its share of wins against
    all others."""
    comparisons: list[Comparison]
    """Comparisons by the judge, or those that follow from its scores."""
    n_outputs: Mapping[str, int]
    """Outputs with a value by model."""
    is_share: bool
    """Values are shares of wins."""
    scale: Ends = NO_ENDS
    """Ends of the scale of the values."""

    @property
    def length(self) -> float | None:
        """Length of the scale; None where it has not two ends."""
        low, high = self.scale
        return None if low is None or high is None else high - low

    def of(self, prompts: Iterable[str]) -> Figures:
        """Return the values for some prompts."""
        chosen = {*prompts}
        means = {
            model: {prompt: mean for prompt, mean in by_prompt.items() if prompt in chosen}
            for model, by_prompt in self.means.items()
        }
        comparisons = [each for each in self.comparisons if each.prompt in chosen]
        return self._replace(means=means, comparisons=comparisons)

    def mean(self, model: str) -> Estimate:
        """Mean value of a model."""
        if self.is_share:
            return AverageRate.of(self.comparisons, model).estimate()
        return mean_estimate(self.means[model], self.scale)

    def difference(self, model: str, baseline: str) -> Estimate:
        """Paired difference of the values of two models."""
        if self.is_share:
            rate = AverageRate.of(self.comparisons, model)
            return rate.minus(AverageRate.of(self.comparisons, baseline))
        return paired_difference(self.means[model], self.means[baseline], self.length)


def build_report(
    outputs: ModelOutputs,
    rewards: Mapping[str, Reward],
    baseline: str,
    votes: Sequence[Vote] = (),
) -> dict[str, Any]:
    """Compute all figures; comparisons are empty for a single model.

    Args:
        outputs: Outputs that were judged.
        rewards: Rewards by name.
        baseline: Model that the others are compared with.
        votes: Votes of people on pairs of the models.
    """
    figures = {name: reward_figures(reward.answers, outputs) for name, reward in rewards.items()}
    answers = [reward.answers for reward in rewards.values()]
    votes = _with_prompt_ids(votes, outputs)
    missing = [*outputs.missing, *(lost for each in answers for lost in each.missing(outputs))]
    budgets = {name: reward.budget for name, reward in rewards.items() if reward.budget}
    compared = figures if len(outputs.models) > 1 else {}
    fits = {
        name: fit_bradley_terry(outputs.models, each.comparisons) for name, each in compared.items()
    }
    report: dict[str, Any] = {
        "baseline": baseline,
        "prompts": len(outputs.prompts),
        "rewards": [*rewards],
        "judges": {name: _judge(reward) for name, reward in rewards.items()},
        "models": {
            model: {name: _values(each, model) for name, each in figures.items()}
            for model in outputs.models
        },
        "paired": {
            model: {name: _paired(each, model, baseline) for name, each in figures.items()}
            for model in outputs.models
            if model != baseline
        },
        "win_rates": {name: _win_rates(each, outputs.models) for name, each in compared.items()},
        "bradley_terry": {name: _strengths(fit, outputs.models) for name, fit in fits.items()},
        "categories": _categories(outputs, figures, baseline),
        "correlations": _correlations(figures, answers),
        "missing": [each._asdict() for each in missing],
        "notes": [*outputs.notes, *_unconnected(fits)],
        "most_different": _most_different(outputs, figures),
        "budget": budgets or None,
        "people": _people(votes, figures, outputs.models, baseline),
    }
    if report["people"]:
        report["notes"] += _foreign_votes(votes, outputs)
    elif votes:
        report["notes"].append(
            f"no vote is of a prompt here and compares {baseline} with another model of this run"
        )
    report["warnings"] = find_warnings(report)
    return _finite(report)


def reward_figures(answers: RewardAnswers, outputs: ModelOutputs) -> Figures:
    """Compute the values of a reward per prompt."""
    scores, comparisons = answers.values.scores, [*answers.values.comparisons]
    if not answers.asks("compare"):
        comparisons = score_comparisons(scores, model_pairs(outputs.models))
    if answers.asks("score"):
        means = {model: prompt_means(scores[model]) for model in outputs.models}
        counts = {
            model: sum(
                math.isfinite(value) for values in scores[model].values() for value in values
            )
            for model in outputs.models
        }
        scale = tuple(answers.scale or NO_ENDS)
        return Figures(means, comparisons, counts, is_share=False, scale=scale)
    shares = shares_against_all(comparisons, outputs.models)
    counts = {
        model: sum(len(outputs.outputs[model][prompt]) for prompt in shares[model])
        for model in outputs.models
    }
    return Figures(shares, comparisons, counts, is_share=True, scale=(0.0, 1.0))


def _judge(reward: Reward) -> dict[str, Any]:
    answers = reward.answers
    return {
        "reference": reward.reference,
        "judge": reward.judge,
        "family": reward.family,
        "aspect": answers.aspect or None,
        "kind": "score" if answers.asks("score") else "win_rate",
        "forms": [form for form in ("score", "compare") if answers.asks(form)],
        "scale": answers.scale if answers.asks("score") else [0.0, 1.0],
        "calls": answers.values.calls,
        "unparsed": answers.count(Unparsed),
        "failed": answers.count(Failed),
        "flips": flip_share(answers.values.comparisons).value,
        "reading_sigma": answers.values.reading_sigma,
    }


def _values(figures: Figures, model: str) -> dict[str, Any]:
    means = figures.means[model]
    median, spread = median_estimate(means), spread_estimate(means)
    return {
        **figures.mean(model).row("mean"),
        "median": median.value,
        "median_ci95": median.ci95,
        "spread": spread.value,
        "spread_ci95": spread.ci95,
        "outputs": figures.n_outputs[model],
    }


def _paired(figures: Figures, model: str, baseline: str) -> dict[str, Any]:
    rate = win_rate(figures.comparisons, model, baseline)
    met = between(figures.comparisons, model, baseline)
    return {
        **figures.difference(model, baseline).row("difference"),
        "win_rate": rate.value,
        "win_rate_ci95": rate.ci95,
        "win_rate_n": rate.n,
        "n_comparisons": len(met),
        "flips": flip_share(met).value,
    }


def _win_rates(figures: Figures, models: Sequence[str]) -> dict[str, Any]:
    rates: dict[str, dict[str, Any]] = {}
    for a, b in permutations(models, 2):
        rates.setdefault(a, {})[b] = win_rate(figures.comparisons, a, b).row()
    return rates


def _strengths(fit: BradleyTerry, models: Sequence[str]) -> dict[str, Any]:
    """Strengths, null for models that met no other."""
    alone = {group[0] for group in fit.groups if len(group) == 1 < len(models)}
    return {
        model: {**row, "strength": None} if model in alone else row
        for model, row in fit.rows().items()
    }


def _unconnected(fits: Mapping[str, BradleyTerry]) -> Iterator[str]:
    for name, fit in fits.items():
        if len(fit.groups) > 1:
            groups = " | ".join(", ".join(group) for group in fit.groups)
            yield (
                f"{name}: no comparison connects these groups of models, whose strengths cannot be "
                f"compared: {groups}"
            )


def _categories(
    outputs: ModelOutputs, figures: Mapping[str, Figures], baseline: str
) -> dict[str, Any]:
    prompts: dict[str, list[str]] = {}
    for prompt in outputs.prompts:
        for category in outputs.categories(prompt):
            prompts.setdefault(category, []).append(prompt)
    rows: dict[str, Any] = {}
    for category, chosen in prompts.items():
        inside = {name: each.of(chosen) for name, each in figures.items()}
        rows[category] = {
            "n": len(chosen),
            "models": {
                model: {name: each.mean(model).row("mean") for name, each in inside.items()}
                for model in outputs.models
            },
            "paired": {
                model: {name: _paired(each, model, baseline) for name, each in inside.items()}
                for model in outputs.models
                if model != baseline
            },
        }
    return rows


def _correlations(
    figures: Mapping[str, Figures], answers: Sequence[RewardAnswers]
) -> list[dict[str, Any]]:
    """Correlations of all pairs of rewards: of outputs, or of prompts where one only compares."""
    scores = {name: each.values.scores for name, each in zip(figures, answers, strict=True)}
    rows: list[dict[str, Any]] = []
    for a, b in combinations(figures, 2):
        of_outputs = scores[a] and scores[b]
        pair = [scores[name] if of_outputs else _as_scores(figures[name]) for name in (a, b)]
        rows.append({"a": a, "b": b, **correlate(*pair).row("spearman")})
    return rows


def _as_scores(figures: Figures) -> Scores:
    return {
        model: {prompt: (mean,) for prompt, mean in means.items()}
        for model, means in figures.means.items()
    }


def _most_different(outputs: ModelOutputs, figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Prompts for which the values of the models lie furthest apart, by the first reward."""
    name, first = next(iter(figures.items()))
    rows: list[dict[str, Any]] = []
    for prompt, example in outputs.prompts.items():
        values = {model: by[prompt] for model, by in first.means.items() if prompt in by}
        if len(set(values.values())) > 1:
            row = {"prompt": prompt, "text": example.prompt, "reward": name, "values": values}
            rows.append(row)
    rows.sort(key=lambda row: min(row["values"].values()) - max(row["values"].values()))
    return rows[:_N_DIFFERENT]


def _people(
    votes: Sequence[Vote], figures: Mapping[str, Figures], models: Sequence[str], baseline: str
) -> dict[str, Any] | None:
    """Win rates among people against the baseline, by votes and the verdicts of the first judge."""
    name, first = next(iter(figures.items()))
    sources = (vote_comparisons(votes), first.comparisons)
    rows: dict[str, Any] = {}
    for model in models:
        if model == baseline:
            continue
        people, judge = (
            prompt_means(win_shares(between(source, model, baseline), model)) for source in sources
        )
        if people.keys() & judge.keys():
            rows[model] = {**prediction_powered(people, judge).row(), "reward": name}
    return rows or None


def _with_prompt_ids(votes: Iterable[Vote], outputs: ModelOutputs) -> list[Vote]:
    """Votes with the id of their prompt; a row without it is matched by a text no other has."""
    by_text: dict[str, list[str]] = {}
    for key, prompt in outputs.prompts.items():
        by_text.setdefault(prompt.prompt, []).append(key)
    placed: list[Vote] = []
    for vote in votes:
        example, keys = vote.example, by_text.get(vote.example.prompt, [])
        if "prompt_id" not in example.tags and len(keys) == 1:
            example = replace(example, tags={**example.tags, "prompt_id": keys[0]})
        placed.append(replace(vote, example=example))
    return placed


def _foreign_votes(votes: Sequence[Vote], outputs: ModelOutputs) -> Iterator[str]:
    n = sum(
        not {vote.a, vote.b} <= outputs.outputs.keys()
        or prompt_key(vote.example) not in outputs.prompts
        for vote in votes
    )
    if n:
        yield f"{n} of {len(votes)} votes are of other models or prompts than those compared here"


def _finite(value: Any) -> Any:
    """JSON in which a number that is not finite is null, and a tuple a list."""
    match value:
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value
