"""Evaluation: intervals, adaptive pairs and prediction-powered intervals, against a known truth.

Evaluations of a few hundred prompts are sampled from a pool of four policies of known order (see
`evaluation_pool`), whose values are the truth that the intervals should cover. People are an
annotator of the microworld with noise, on the oracle's scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward.bench.metrics import wilson
from unified_reward.core.errors import ConfigError
from unified_reward.evaluate.bradley_terry import BradleyTerry, fit_bradley_terry
from unified_reward.evaluate.budget import budget_report, next_questions, question_orders
from unified_reward.evaluate.estimates import Estimate, mean_estimate, paired_difference, win_rate
from unified_reward.evaluate.outputs import Comparison, model_pairs
from unified_reward.evaluate.prediction_powered import prediction_powered
from unified_reward_lab.experiments.evaluation_page import page, plot
from unified_reward_lab.experiments.evaluation_pool import (
    BEFORE,
    JUDGE,
    MODELS,
    ORACLE,
    Pair,
    Pool,
    PoolConfig,
    Reward,
    read_pool,
)
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.microworld.annotators import Annotator


_OTHERS = [model for model in MODELS if model != BEFORE]
_NEIGHBOURS = [*pairwise(MODELS)]
_PAIRS = model_pairs(MODELS)
_BATCH = 30
"""Comparisons that adaptive pairs choose at once, and steps in which even ones are counted."""


@dataclass(frozen=True)
class BudgetStudy:
    """Adaptive against even pairs."""

    prompts: int = 500
    """Prompts of an evaluation."""
    comparisons: tuple[int, ...] = (300, 900)
    """Numbers of comparisons that adaptive pairs may ask for."""
    repeats: int = 200


@dataclass(frozen=True)
class PeopleStudy:
    """Few votes and many verdicts against votes alone."""

    votes: tuple[int, ...] = (50, 100, 200, 500)
    judged: int = 2000
    """Prompts with the judge's verdict alone."""
    temperature: float = 0.2
    """Bradley-Terry noise of the votes, in units of the oracle's score."""
    repeats: int = 1000


@dataclass(frozen=True)
class EvaluationStudy:
    """Pool, and the samples from it."""

    work: Path = Path("runs/evaluation")
    """Folder of the pool."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    sizes: tuple[int, ...] = (25, 100, 400)
    """Prompts of an evaluation."""
    repeats: int = 200
    """Evaluations of each size."""
    budget: BudgetStudy = field(default_factory=BudgetStudy)
    people: PeopleStudy = field(default_factory=PeopleStudy)
    seed: int = 0

    def __post_init__(self) -> None:
        most = max(*self.sizes, self.budget.prompts)
        if most > self.pool.n:
            raise ConfigError(f"an evaluation of {most} prompts needs a pool of as many")

    @property
    def total(self) -> int:
        """Number of repeats of all parts."""
        return (
            len(self.sizes) * self.repeats
            + len(self.budget.comparisons) * self.budget.repeats * 2
            + len(self.people.votes) * self.people.repeats
        )


def run(study: EvaluationStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Draw evaluations from the pool and count how often they are right.

    Returns:
        ``pool``: values of the whole pool by reward and figure. ``coverage`` by size, reward and
        figure, ``order`` by size and reward, ``budget`` by reward and number of comparisons,
        ``people`` by model and number of votes.
    """
    pool = read_pool(study.pool, study.work)
    truth = {name: figures(reward, pool.prompts) for name, reward in pool.rewards.items()}
    return {
        "name": "evaluation",
        "n": study.pool.n,
        "repeats": study.repeats,
        "blur": study.pool.blur,
        "noise": study.pool.noise,
        "n_unparsed": 0,
        "n_failed": 0,
        "pool": {
            name: {key: each.row() for key, each in found.items()} for name, found in truth.items()
        },
        "agreement": _agreement(pool),
        "samples": _sampled(study, pool, truth, progress),
        "budget": asdict(study.budget) | {"rewards": _budgets(study, pool, truth, progress)},
        "people": asdict(study.people) | {"models": _people(study, pool, progress)},
    }


def figures(reward: Reward, prompts: Sequence[str]) -> dict[str, Estimate]:
    """Estimate everything that an evaluation of some prompts says, by ``KIND MODEL``."""
    means = {model: {p: reward.scores[model][p] for p in prompts} for model in MODELS}
    compared = reward.compared(prompts)
    fit = fit_bradley_terry(MODELS, compared)
    return {
        **{f"mean {model}": mean_estimate(means[model]) for model in MODELS},
        **{
            f"difference {model}": paired_difference(means[model], means[BEFORE])
            for model in _OTHERS
        },
        **{f"win_rate {model}": win_rate(compared, model, BEFORE) for model in _OTHERS},
        **{
            f"strength {model}": Estimate(row["strength"], row["ci95"], fit.n)
            for model, row in fit.rows().items()
        },
        **_leads(fit),
    }


def _leads(fit: BradleyTerry) -> dict[str, Estimate]:
    return {f"lead {a}": fit.difference(a, b) for a, b in _NEIGHBOURS}


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    n, total = sum(flags), len(flags)
    return {"value": n / total, "ci95": [*wilson(n, total)], "n": total}


def _covers(estimate: Estimate, truth: float | None) -> bool:
    if estimate.ci95 is None or truth is None:
        return False
    low, high = estimate.ci95
    return low <= truth <= high


def _coverage(
    found: Sequence[Mapping[str, Estimate]], truth: Mapping[str, Estimate]
) -> dict[str, Any]:
    return {
        key: _share([_covers(each[key], truth[key].value) for each in found])
        | {"width": _mean_width([each[key] for each in found])}
        for key in found[0]
    }


def _mean_width(estimates: Sequence[Estimate]) -> float:
    return float(np.mean([each.ci95[1] - each.ci95[0] for each in estimates if each.ci95]))


def _sampled(
    study: EvaluationStudy,
    pool: Pool,
    truth: Mapping[str, Mapping[str, Estimate]],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Coverage of all figures, and how often the known order is found, by size and reward."""
    samples: dict[str, Any] = {}
    for size in study.sizes:
        found: dict[str, list[dict[str, Estimate]]] = {name: [] for name in pool.rewards}
        for prompts in _samples(pool, size, study.repeats, study.seed):
            for name, reward in pool.rewards.items():
                found[name].append(figures(reward, prompts))
            progress(1)
        samples[str(size)] = {
            name: {"coverage": _coverage(each, truth[name]), "order": _order(each)}
            for name, each in found.items()
        }
    return samples


def _samples(pool: Pool, size: int, repeats: int, seed: int) -> Iterator[list[str]]:
    rng = np.random.default_rng([seed, size])
    for _ in range(repeats):
        yield [pool.prompts[i] for i in rng.choice(len(pool.prompts), size, replace=False)]


def _order(found: Sequence[Mapping[str, Estimate]]) -> dict[str, Any]:
    """Shares of evaluations: whole order right; neighbours told apart, and those told wrongly."""
    leads = [[each[f"lead {a}"] for a, _ in _NEIGHBOURS] for each in found]
    apart = [
        [0 if not e.ci95 else int(e.ci95[0] > 0) - int(e.ci95[1] < 0) for e in each]
        for each in leads
    ]
    return {
        "right": _share([all((e.value or 0) > 0 for e in each) for each in leads]),
        "apart": {
            f"{a} > {b}": _share([signs[k] > 0 for signs in apart])
            for k, (a, b) in enumerate(_NEIGHBOURS)
        },
        "wrong": _share([sign < 0 for signs in apart for sign in signs]),
    }


def _budgets(
    study: EvaluationStudy,
    pool: Pool,
    truth: Mapping[str, Mapping[str, Estimate]],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """By reward and number of comparisons: calls saved, as measured and as reported."""
    config = study.budget
    report: dict[str, Any] = {}
    for name, reward in pool.rewards.items():
        report[name] = {}
        for n in config.comparisons:
            rows: list[dict[str, float]] = []
            found: list[dict[str, Estimate]] = []
            samples = _samples(pool, config.prompts, config.repeats, study.seed + 1)
            for k, prompts in enumerate(samples):
                made = _adaptive(reward, prompts, n, k)
                even = _even(reward, prompts, k + 10**6)
                fit = fit_bradley_terry(MODELS, made)
                reported = budget_report(MODELS, made)["uniform_comparisons"]
                rows.append(
                    {
                        "saved": _reaching(even, fit, _PAIRS) / n,
                        "saved_neighbours": _reaching(even, fit, _NEIGHBOURS) / n,
                        "reported": reported / n,
                    }
                    | {f"share {a} {b}": _share_of(made, a, b) for a, b in _PAIRS}
                )
                found.append(_leads(fit))
                progress(1)
            report[name][str(n)] = {
                key: (_mean if key.startswith("share ") else _saved)([row[key] for row in rows])
                for key in rows[0]
            } | {"coverage": _coverage(found, truth[name])}
    return report


def _share_of(made: Sequence[Comparison], a: str, b: str) -> float:
    return sum((each.a, each.b) == (a, b) for each in made) / len(made)


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return mean_estimate({str(k): value for k, value in enumerate(values)}).row()


def _saved(ratios: Sequence[float]) -> dict[str, Any]:
    """Share of the even comparisons that is saved, by the geometric mean of even to adaptive ones.

    The mean of the shares themselves is below 0 where both ways are the same: it is concave.
    """
    found = _mean([math.log(ratio) for ratio in ratios])
    low, high = found["ci95"]
    ends = [1 - math.exp(-low), 1 - math.exp(-high)]
    return {"value": 1 - math.exp(-found["value"]), "ci95": ends, "n": found["n"]}


def _questions(reward: Reward, prompts: Sequence[str], seed: int) -> dict[Any, list[str]]:
    """Prompts of each pair in a random order of its own."""
    names = {pair: [f"{'|'.join(pair)}/{p}" for p in prompts] for pair in reward.comparisons}
    ordered = question_orders(names, seed)
    return {pair: [name.partition("/")[2] for name in each] for pair, each in ordered.items()}


def _adaptive(reward: Reward, prompts: Sequence[str], n: int, seed: int) -> list[Comparison]:
    """Ask about adaptive pairs, as an evaluation with a budget does."""
    left = _questions(reward, prompts, seed)
    made: list[Comparison] = []
    while len(made) < n:
        batch = next_questions(MODELS, made, left, min(_BATCH, n - len(made)))
        if not batch:
            break
        for pair, prompt in batch:
            made.append(reward.comparisons[pair][prompt])
            left[pair].remove(prompt)
    return made


def _even(reward: Reward, prompts: Sequence[str], seed: int) -> list[Comparison]:
    """Comparisons in an order of which every part is spread evenly over all pairs."""
    orders = _questions(reward, prompts, seed)
    return [
        reward.comparisons[pair][prompt]
        for each in zip(*orders.values(), strict=True)
        for pair, prompt in zip(orders, each, strict=True)
    ]


def _reaching(even: Sequence[Comparison], fit: BradleyTerry, pairs: Sequence[Pair]) -> int:
    """Number of the even comparisons whose widest interval is as narrow as that of a fit.

    By bisection; all of them if not even they are.
    """
    width = _widest(fit, pairs)
    low, high = 0, len(even)
    while high - low > _BATCH:
        middle = (low + high) // 2
        found = _widest(fit_bradley_terry(MODELS, even[:middle]), pairs)
        low, high = (low, middle) if found <= width else (middle, high)
    return high


def _widest(fit: BradleyTerry, pairs: Sequence[Pair]) -> float:
    """Width of the widest interval of a win rate of these pairs."""
    intervals = [fit.difference(a, b).ci95 or (-math.inf, math.inf) for a, b in pairs]
    return max(1 / (1 + math.exp(-high)) - 1 / (1 + math.exp(-low)) for low, high in intervals)


def _agreement(pool: Pool) -> dict[str, float | None]:
    """Correlation of the judge's win probability with the oracle's; None if either is constant."""
    agreement: dict[str, float | None] = {}
    for model in _OTHERS:
        truth, given = (_win_shares(pool.rewards[name], model) for name in (ORACLE, JUDGE))
        is_known = min(np.ptp(truth), np.ptp(given)) > 0
        agreement[model] = round(float(np.corrcoef(truth, given)[0, 1]), 4) if is_known else None
    return agreement


def _win_shares(reward: Reward, model: str) -> np.ndarray[Any, Any]:
    """Probability that a model beats `BEFORE`, by prompt."""
    for (a, b), compared in reward.comparisons.items():
        if {a, b} == {model, BEFORE}:
            shares = np.array([each.probability for each in compared.values()])
            return shares if a == model else 1 - shares
    raise ValueError(model)


def _people(study: EvaluationStudy, pool: Pool, progress: Callable[[int], None]) -> dict[str, Any]:
    """By model and number of votes: coverage and width of three intervals of its win rate."""
    config = study.people
    rng = np.random.default_rng([study.seed, 2])
    oracle = pool.rewards[ORACLE].scores
    verdicts = {model: _win_shares(pool.rewards[JUDGE], model) for model in _OTHERS}
    chances = {
        model: _vote_chances(oracle[model], oracle[BEFORE], config.temperature) for model in _OTHERS
    }
    report: dict[str, Any] = {
        model: {"value": float(chances[model].mean()), "by_votes": {}} for model in _OTHERS
    }
    for n in config.votes:
        found: dict[str, list[dict[str, Estimate]]] = {model: [] for model in _OTHERS}
        weights: dict[str, list[float]] = {model: [] for model in _OTHERS}
        for _ in range(config.repeats):
            samples = rng.integers(len(pool.prompts), size=n + config.judged)
            for model in _OTHERS:
                votes = _votes(chances[model][samples[:n]], rng)
                judged = {str(k): float(f) for k, f in enumerate(verdicts[model][samples])}
                result = prediction_powered(votes, judged)
                weights[model].append(result.weight)
                found[model].append(
                    {
                        "powered": result.estimate,
                        "votes": result.votes_alone,
                        "judge": result.judge_alone,
                    }
                )
            progress(1)
        for model in _OTHERS:
            truth = Estimate(report[model]["value"], None, len(pool.prompts))
            covered = _coverage(found[model], dict.fromkeys(found[model][0], truth))
            report[model]["by_votes"][str(n)] = covered | {"weight": float(np.mean(weights[model]))}
    return report


def _vote_chances(
    model: Mapping[str, float], other: Mapping[str, float], temperature: float
) -> np.ndarray[Any, Any]:
    """Expected share of a win by prompt, of a rater who calls equal pictures a tie."""
    rater = Annotator(temperature=temperature)
    return np.array([rater.win_share(utility, other[p]) for p, utility in model.items()])


def _votes(chances: np.ndarray[Any, Any], rng: np.random.Generator) -> dict[str, float]:
    """One vote a prompt: a win, a loss, or a tie where the chance is even."""
    wins = (rng.random(len(chances)) < chances).astype(float)
    shares = np.where(chances == 0.5, 0.5, wins)
    return {str(k): float(share) for k, share in enumerate(shares)}


EXPERIMENT = Experiment(EvaluationStudy, run, page, plot)
