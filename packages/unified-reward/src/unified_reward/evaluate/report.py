"""The report of an evaluation, as JSON: every figure with its interval over prompts.

Figures that do not exist are null. What is listed under ``missing`` takes part in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple

from unified_reward.core.verdicts import Failed, Unparsed
from unified_reward.evaluate.answers import RewardAnswers
from unified_reward.evaluate.bradley_terry import fit_bradley_terry
from unified_reward.evaluate.estimates import (
    Estimate,
    Scores,
    between,
    correlate,
    flip_share,
    mean_estimate,
    median_estimate,
    paired_difference,
    prompt_means,
    score_comparisons,
    share_estimate,
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
    """Mean score of each model's outputs; of a judge that only compares, its share of wins."""
    comparisons: list[Comparison]
    """Comparisons by the judge, or those that follow from its scores."""
    n_outputs: Mapping[str, int]
    """Outputs with a value by model."""
    is_share: bool
    """Values are shares of wins."""

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
        means = self.means[model]
        return share_estimate(means) if self.is_share else mean_estimate(means)


def build_report(
    outputs: ModelOutputs,
    rewards: Mapping[str, Reward],
    baseline: str,
    votes: Sequence[Vote] = (),
) -> dict[str, Any]:
    """Compute all figures.

    Args:
        outputs: Outputs that were judged.
        rewards: Rewards by name.
        baseline: Model that the others are compared with.
        votes: Votes of people on pairs of the models.
    """
    figures = {name: reward_figures(reward.answers, outputs) for name, reward in rewards.items()}
    answers = [reward.answers for reward in rewards.values()]
    missing = [*outputs.missing, *(lost for each in answers for lost in each.missing(outputs))]
    budgets = {name: reward.budget for name, reward in rewards.items() if reward.budget}
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
        "win_rates": {name: _win_rates(each, outputs.models) for name, each in figures.items()},
        "bradley_terry": {
            name: fit_bradley_terry(outputs.models, each.comparisons).rows()
            for name, each in figures.items()
        },
        "categories": _categories(outputs, figures, baseline),
        "correlations": _correlations(figures, answers),
        "missing": [each._asdict() for each in missing],
        "notes": [*outputs.notes],
        "most_different": _most_different(outputs, figures),
        "budget": budgets or None,
        "people": _people(votes, figures, outputs.models, baseline),
    }
    if votes and report["people"] is None:
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
        return Figures(means, comparisons, counts, is_share=False)
    shares = {model: prompt_means(win_shares(comparisons, model)) for model in outputs.models}
    counts = {
        model: sum(len(outputs.outputs[model][prompt]) for prompt in shares[model])
        for model in outputs.models
    }
    return Figures(shares, comparisons, counts, is_share=True)


def _judge(reward: Reward) -> dict[str, Any]:
    answers = reward.answers
    return {
        "reference": reward.reference,
        "judge": reward.judge,
        "family": reward.family,
        "aspect": answers.aspect or None,
        "kind": "score" if answers.asks("score") else "win_rate",
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
        **paired_difference(figures.means[model], figures.means[baseline]).row("difference"),
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
