"""Best of n: score and true utility of a judge's pick as a function of n.

The score is the proxy and the utility the gold of Gao et al. 2022, arXiv:2210.10760. No policy is
trained: candidates come from the microworld, which knows their utilities.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unified_reward.bench.metrics import Metric, bootstrap
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Sample, Target, Task
from unified_reward.core.verdicts import Failed, Scored, Verdict
from unified_reward.judges.registry import open_reference
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import png, table, with_interval
from unified_reward_lab.microworld import candidate_pool, true_utilities
from unified_reward_lab.microworld.items import TASKS, UNIT


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestOfNStudy:
    """Judges, and the candidates they pick from."""

    judges: Mapping[str, str] = field(default_factory=lambda: {"shipped": "tiny_judge"})
    """Reference of a judge, see `open_judge`, by the name to show."""
    task: Task = Task.IMAGE_GENERATION
    n: int = 64
    """Candidates per caption, a power of two >= 2."""
    captions: int = 200
    """Held-out captions, or questions for understanding, >= 2."""
    seed: int = 0
    """Seed of the series of candidates."""

    def __post_init__(self) -> None:
        if not self.judges:
            raise ConfigError("best of n needs a judge: judges={NAME: REFERENCE}")
        for name in self.judges:
            if not re.fullmatch(r"[\w. -]+", name):
                raise ConfigError(
                    f"names of judges have letters, digits, spaces, dots, - and _, given {name!r}"
                )
        if self.task not in TASKS:
            raise ConfigError(f"the microworld has no {self.task}; it has {', '.join(TASKS)}")
        if self.n < 2 or self.n & (self.n - 1):
            raise ConfigError(f"n must be a power of two >= 2, given {self.n}")
        if self.captions < 2:
            raise ConfigError(f"captions must be at least 2 for an interval, given {self.captions}")

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of candidates to pick from: 1, 2, 4, up to n."""
        return tuple(2**i for i in range(self.n.bit_length()))

    @property
    def total(self) -> int:
        """Number of all scores."""
        return len(self.judges) * self.captions * self.n


class _Picked(NamedTuple):
    """Results of one caption, one value per step."""

    prompt: str
    oracle: Floats
    proxy: Floats | None
    """None if no candidate has a score."""
    gold: Floats | None
    n_unparsed: int
    n_failed: int


def run(config: BestOfNStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Let every judge pick the best of n, for n from 1 to all candidates of a caption.

    A candidate without a readable score is counted and never picked; that caption has fewer
    candidates to pick from.

    Args:
        config: Judges and candidates.
        progress: Called with the number of candidates just judged.

    Returns:
        ``steps`` with the KL divergence from a single candidate, ``log n - (n - 1) / n`` nats (Gao
        et al. 2022); ``oracle``, the gold of picking by true utility; and by judge ``proxy`` and
        ``gold`` by step, ``gap`` (oracle minus gold, at the last step) and ``fall`` (gold at the
        last step minus its maximum, at the step ``peak``). Each value has a 95 % interval over
        captions. ``fall`` is never above 0, so noise alone makes it negative.
    """
    judges: dict[str, Any] = {}
    picked: list[_Picked] = []
    for name, reference in config.judges.items():
        judge = open_reference(reference, truth=_truth(config))
        picked = [_pick(judge, config, i, progress) for i in range(config.captions)]
        judges[name] = {
            "reference": reference,
            "family": judge.family,
            **_summarise(picked, config),
        }
    oracle = np.array([one.oracle for one in picked])
    return {
        "name": "best_of_n",
        "task": str(config.task),
        "split": "test",
        "n": config.n,
        "captions": config.captions,
        "seed": config.seed,
        "n_unparsed": sum(one["n_unparsed"] for one in judges.values()),
        "n_failed": sum(one["n_failed"] for one in judges.values()),
        "steps": [{"n": n, "kl": math.log(n) - (n - 1) / n} for n in config.steps],
        "oracle": _curve(oracle, [one.prompt for one in picked]),
        "judges": judges,
    }


def pick_probabilities(scores: Sequence[float] | Floats, n: int) -> Floats:
    """Probability of each candidate to be the pick among n sampled without replacement.

    The pick has the highest score of the n; equal scores share. Weighting by these probabilities
    gives the mean over all subsets of size n, the estimator of Nakano et al. 2021,
    arXiv:2112.09332.

    >>> [round(float(one), 3) for one in pick_probabilities([0.1, 0.5, 0.5], 2)]
    [0.0, 0.5, 0.5]

    Args:
        scores: Score of each candidate.
        n: Size of the subsets, from 1 to all.
    """
    m = len(scores)
    if not 1 <= n <= m:
        raise ValueError(f"n must be from 1 to {m}, given {n}")
    among = np.array([math.comb(j, n) / math.comb(m, n) for j in range(m + 1)])
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, scores, "left")
    up_to = np.searchsorted(ordered, scores, "right")
    return (among[up_to] - among[below]) / (up_to - below)


def _samples(pool: Example) -> list[Sample]:
    return [
        Sample(pool.task, pool.prompt, (candidate,), pool.context, id=f"{pool.id}-{i}")
        for i, candidate in enumerate(pool.candidates)
    ]


def _pool(config: BestOfNStudy, index: int) -> Example:
    return candidate_pool(config.task, n=config.n, split="test", seed=config.seed, index=index)


def _truth(config: BestOfNStudy) -> Iterator[Example]:
    """Every candidate with its utility, made only if a judge reads them."""
    for pool in (_pool(config, index) for index in range(config.captions)):
        for sample, utility in zip(_samples(pool), true_utilities(pool), strict=True):
            yield Example.of(sample, Target(score=utility, scale=UNIT))


def _pick(
    judge: BaseJudge, config: BestOfNStudy, index: int, progress: Callable[[int], None]
) -> _Picked:
    pool = _pool(config, index)
    verdicts = judge.ask(_samples(pool))
    progress(config.n)
    scores = [_proxy(verdict) for verdict in verdicts]
    readable = [i for i, score in enumerate(scores) if score is not None]
    n_failed = sum(isinstance(verdict, Failed) for verdict in verdicts)
    n_unparsed = config.n - len(readable) - n_failed
    utilities = np.array(true_utilities(pool))
    oracle = _weights(utilities, config) @ utilities
    if not readable:
        return _Picked(pool.prompt, oracle, None, None, n_unparsed, n_failed)
    known = np.array([scores[i] for i in readable], np.float64)
    weights = _weights(known, config)
    proxy, gold = weights @ known, weights @ utilities[readable]
    return _Picked(pool.prompt, oracle, proxy, gold, n_unparsed, n_failed)


def _weights(scores: Floats, config: BestOfNStudy) -> Floats:
    """Pick probabilities at every step, shape (steps, m); a step above m counts as m."""
    return np.array([pick_probabilities(scores, min(n, len(scores))) for n in config.steps])


def _proxy(verdict: Verdict) -> float | None:
    """Score in [0, 1], or as it is on an open scale; without one, the mean of its aspects."""
    if not isinstance(verdict, Scored):
        return None
    scores = [verdict.score] if verdict.score else list(verdict.aspects.values())
    values = [s.value if s.normalized is None else s.normalized for s in scores]
    return sum(values) / len(values) if values else None


def _summarise(picked: Sequence[_Picked], config: BestOfNStudy) -> dict[str, Any]:
    able = [one for one in picked if one.gold is not None]
    prompts = [one.prompt for one in able]
    shape = (len(able), len(config.steps))
    proxy, gold, oracle = (
        np.array([getattr(each, name) for each in able]).reshape(shape)
        for name in ("proxy", "gold", "oracle")
    )

    def fall(values: Floats) -> float:
        means = values.mean(axis=0)
        return float(means[-1] - means.max())

    return {
        "n_unparsed": sum(one.n_unparsed for one in picked),
        "n_failed": sum(one.n_failed for one in picked),
        "proxy": _curve(proxy, prompts),
        "gold": _curve(gold, prompts),
        "gap": _metric(oracle[:, -1] - gold[:, -1], prompts),
        "fall": _metric(gold, prompts, fall),
        "peak": config.steps[int(gold.mean(axis=0).argmax())] if able else None,
    }


def _curve(values: Floats, prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [_metric(column, prompts) for column in values.T]


def _metric(
    values: Floats,
    prompts: Sequence[str],
    statistic: Callable[[Floats], float] = lambda values: float(values.mean()),
) -> dict[str, Any]:
    """Statistic of one value per caption with its interval; null if there are no values."""
    if not len(values):
        return Metric(math.nan, (math.nan, math.nan), 0).row()
    interval = bootstrap(lambda indices: statistic(values[indices]), prompts)
    return Metric(statistic(values), interval, len(values)).row()


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    steps, judges = report["steps"], report["judges"]
    curves: list[list[Any]] = [["", "KL", *(f"{step['kl']:.2f}" for step in steps)]]
    curves.append(["oracle", "gold", *map(with_interval, report["oracle"])])
    ends: list[list[Any]] = []
    for name, judge in judges.items():
        curves += [[name, curve, *map(with_interval, judge[curve])] for curve in ("gold", "proxy")]
        figures = [with_interval(judge["gap"]), with_interval(judge["fall"]), judge["peak"] or "-"]
        ends.append([name, *figures, judge["n_unparsed"], judge["n_failed"]])
    lines = [
        f"## Best of {report['n']}",
        "",
        f"A judge picks the best of n by its score, for {report['captions']} held-out prompts of "
        f"`{report['task']}` with {report['n']} candidates each (seed {report['seed']}). Proxy is "
        "the judge's score of the pick, gold its true utility, both averaged over all subsets of n "
        "candidates; the oracle picks by true utility. KL: divergence from a single candidate, in "
        "nats. In brackets: 95 % intervals, bootstrap over prompts.",
        "",
        *table(["judge", "", *(f"n = {step['n']}" for step in steps)], curves),
        "",
        f"Gap: gold of the oracle minus that of the judge at n = {report['n']}. Fall: gold there "
        "minus its maximum, at the n given; never above 0, so noise alone makes it negative.",
        "",
        *table(["judge", "gap", "fall", "highest at", "unreadable", "failed"], ends),
    ]
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the curves: one panel per judge, bands are 95 % intervals."""
    from matplotlib.figure import Figure

    ns = [step["n"] for step in report["steps"]]
    judges = report["judges"]
    figure = Figure(figsize=(1.2 + 3.2 * len(judges), 3.4), layout="constrained")
    panels = figure.subplots(1, len(judges), sharey=True, squeeze=False)[0]
    for axes, (name, judge) in zip(panels, judges.items(), strict=True):
        for curve, colour in (("proxy", "tab:orange"), ("gold", "tab:blue")):
            value, low, high = _bands(judge[curve])
            axes.plot(ns, value, color=colour, marker="o", markersize=3, label=curve)
            axes.fill_between(ns, low, high, color=colour, alpha=0.2, linewidth=0)
        best, _, _ = _bands(report["oracle"])
        axes.plot(ns, best, color="black", linestyle=":", label="gold of the oracle")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.set(title=name, xlabel="n candidates")
    panels[0].set_ylabel("score or true utility of the pick")
    panels[0].legend(frameon=False)
    return png(figure)


def _bands(curve: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats, Floats]:
    rows = np.array([[metric["value"], *metric["ci95"]] for metric in curve], np.float64)
    return rows[:, 0], rows[:, 1], rows[:, 2]


EXPERIMENT = Experiment(BestOfNStudy, run, page, plot)
