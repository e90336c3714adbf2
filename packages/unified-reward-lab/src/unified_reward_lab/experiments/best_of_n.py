"""Best of n: what a judge's score and the true utility of its pick do as it picks from more.

The score is the proxy and the utility the gold of Gao et al. 2022, arXiv:2210.10760. No policy is
trained: candidates are drawn by the microworld, which knows the utility of each.
"""

from __future__ import annotations

import io
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
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import CandidatePool, candidate_pool
from unified_reward_lab.microworld.items import TASKS, UNIT


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestOfN:
    """Who picks from what."""

    judges: Mapping[str, str] = field(default_factory=lambda: {"shipped": "tiny_judge"})
    """A reference, as `open_judge` takes it, by the name to show."""
    task: Task = Task.IMAGE_GENERATION
    n: int = 64
    """Candidates of a caption, a power of two >= 2."""
    captions: int = 200
    """Held-out captions, or of understanding questions, >= 2."""
    seed: int = 0
    """Names the series of candidates."""

    def __post_init__(self) -> None:
        if not self.judges:
            raise ConfigError("best of n needs a judge: judges={NAME: REFERENCE}")
        for name in self.judges:
            if not re.fullmatch(r"[\w. -]+", name):
                raise ConfigError(
                    f"a judge's name has letters, digits, spaces, dots, - and _, not {name!r}"
                )
        if self.task not in TASKS:
            raise ConfigError(f"the microworld has no {self.task}; it has {', '.join(TASKS)}")
        if self.n < 2 or self.n & (self.n - 1):
            raise ConfigError(f"n is a power of two from 2 on, not {self.n}")
        if self.captions < 2:
            raise ConfigError(f"an interval needs at least 2 captions, not {self.captions}")

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of candidates to pick from: 1, 2, 4, up to n."""
        return tuple(2**i for i in range(self.n.bit_length()))

    @property
    def total(self) -> int:
        """Scores asked for in all."""
        return len(self.judges) * self.captions * self.n


class _Picked(NamedTuple):
    """What comes of one caption: a value a step each."""

    prompt: str
    oracle: Floats
    proxy: Floats | None
    """None where no candidate has a score."""
    gold: Floats | None
    n_unparsed: int
    n_failed: int


def best_of_n(config: BestOfN, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Let every judge pick the best of n, for n from 1 to all candidates of a caption.

    A candidate without a readable score is counted and never picked; that caption's judge picks
    from fewer, from all it has where n is more.

    Args:
        config: Who picks from what.
        progress: Called with the number of candidates just judged.

    Returns:
        ``steps`` with the divergence of each from one draw, ``log n - (n - 1) / n`` nats (Gao et
        al. 2022); ``oracle``, the gold of picking by true utility; and by judge ``proxy`` and
        ``gold`` a step, ``gap`` (oracle minus gold, at the last step) and ``fall`` (gold at the
        last step minus its highest, at the step ``peak``). Each figure has a 95 % interval over
        captions. ``fall`` is never above 0, so noise alone moves it below.
    """
    judges: dict[str, Any] = {}
    picked: list[_Picked] = []
    for name, reference in config.judges.items():
        judge = open_reference(reference, truth=_truth(config))
        picked = [_pick(judge, config, i, progress) for i in range(config.captions)]
        judges[name] = {"reference": reference, "family": judge.family, **_measured(picked, config)}
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


def chances(scores: Sequence[float] | Floats, n: int) -> Floats:
    """How likely each candidate is the pick when n of them are drawn without replacement.

    The pick has the highest score drawn; equal scores share. Weighting by these chances gives the
    mean over all subsets of size n, the estimator of Nakano et al. 2021, arXiv:2112.09332.

    >>> [round(float(one), 3) for one in chances([0.1, 0.5, 0.5], 2)]
    [0.0, 0.5, 0.5]

    Args:
        scores: One a candidate.
        n: How many are drawn, from 1 to all.
    """
    m = len(scores)
    if not 1 <= n <= m:
        raise ValueError(f"from {m} candidates 1 to {m} can be drawn, not {n}")
    among = np.array([math.comb(j, n) / math.comb(m, n) for j in range(m + 1)])
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, scores, "left")
    up_to = np.searchsorted(ordered, scores, "right")
    return (among[up_to] - among[below]) / (up_to - below)


def _samples(config: BestOfN, drawn: CandidatePool, index: int) -> list[Sample]:
    return [
        Sample(
            Task(config.task),
            drawn.prompt,
            (candidate,),
            drawn.context,
            id=f"{config.task}-pool-test-{config.seed}-{index}-{i}",
        )
        for i, candidate in enumerate(drawn.candidates)
    ]


def _drawn(config: BestOfN, index: int) -> CandidatePool:
    return candidate_pool(config.task, n=config.n, split="test", seed=config.seed, index=index)


def _truth(config: BestOfN) -> Iterator[Example]:
    """Every candidate with its utility, drawn only if somebody reads them."""
    for index in range(config.captions):
        drawn = _drawn(config, index)
        for sample, utility in zip(_samples(config, drawn, index), drawn.utilities, strict=True):
            yield Example.of(sample, Target(score=utility, scale=UNIT))


def _pick(
    judge: BaseJudge, config: BestOfN, index: int, progress: Callable[[int], None]
) -> _Picked:
    drawn = _drawn(config, index)
    verdicts = judge.ask(_samples(config, drawn, index))
    progress(config.n)
    scores = [_proxy(one) for one in verdicts]
    readable = [i for i, score in enumerate(scores) if score is not None]
    n_failed = sum(isinstance(one, Failed) for one in verdicts)
    n_unparsed = config.n - len(readable) - n_failed
    utilities = np.array(drawn.utilities)
    oracle = _weights(utilities, config) @ utilities
    if not readable:
        return _Picked(drawn.prompt, oracle, None, None, n_unparsed, n_failed)
    said = np.array([scores[i] for i in readable], np.float64)
    weights = _weights(said, config)
    proxy, gold = weights @ said, weights @ utilities[readable]
    return _Picked(drawn.prompt, oracle, proxy, gold, n_unparsed, n_failed)


def _weights(scores: Floats, config: BestOfN) -> Floats:
    """Chances at every step, shape (steps, m); where a step is above m, those of all m."""
    return np.array([chances(scores, min(n, len(scores))) for n in config.steps])


def _proxy(verdict: Verdict) -> float | None:
    """The score on [0, 1], or on an open scale as it is; without one, the mean of its aspects."""
    if not isinstance(verdict, Scored):
        return None
    told = [verdict.score] if verdict.score else list(verdict.aspects.values())
    values = [one.value if one.normalized is None else one.normalized for one in told]
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _measured(picked: Sequence[_Picked], config: BestOfN) -> dict[str, Any]:
    able = [one for one in picked if one.gold is not None]
    prompts = [one.prompt for one in able]
    shape = (len(able), len(config.steps))
    proxy, gold, oracle = (
        np.array([getattr(one, what) for one in able]).reshape(shape)
        for what in ("proxy", "gold", "oracle")
    )

    def fall(values: Floats) -> float:
        means = values.mean(axis=0)
        return float(means[-1] - means.max())

    return {
        "n_unparsed": sum(one.n_unparsed for one in picked),
        "n_failed": sum(one.n_failed for one in picked),
        "proxy": _curve(proxy, prompts),
        "gold": _curve(gold, prompts),
        "gap": _figure(oracle[:, -1] - gold[:, -1], prompts),
        "fall": _figure(gold, prompts, fall),
        "peak": config.steps[int(gold.mean(axis=0).argmax())] if able else None,
    }


def _curve(values: Floats, prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [_figure(column, prompts) for column in values.T]


def _figure(
    values: Floats,
    prompts: Sequence[str],
    statistic: Callable[[Floats], float] = lambda values: float(values.mean()),
) -> dict[str, Any]:
    """A statistic of values a caption, with its interval; nothing where there are none."""
    if not len(values):
        return Metric(math.nan, (math.nan, math.nan), 0).row()
    interval = bootstrap(lambda drawn: statistic(values[drawn]), prompts)
    return Metric(statistic(values), interval, len(values)).row()


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section: how it was measured, and the figures."""
    steps, judges = report["steps"], report["judges"]
    curves: list[list[Any]] = [["", "KL", *(f"{step['kl']:.2f}" for step in steps)]]
    curves.append(["oracle", "gold", *map(told, report["oracle"])])
    ends: list[list[Any]] = []
    for name, judge in judges.items():
        curves += [[name, what, *map(told, judge[what])] for what in ("gold", "proxy")]
        figures = [told(judge["gap"]), told(judge["fall"]), judge["peak"] or "-"]
        ends.append([name, *figures, judge["n_unparsed"], judge["n_failed"]])
    lines = [
        f"## Best of {report['n']}",
        "",
        f"A judge picks the best of n by its score, for {report['captions']} held-out prompts of "
        f"`{report['task']}` with {report['n']} candidates each (seed {report['seed']}). Proxy is "
        "the judge's score of the pick, gold its true utility, both means over all choices of n "
        "of the candidates; the oracle picks by true utility. KL is that of picking from drawing "
        "once, in nats. In brackets: 95 % intervals, bootstrap over prompts.",
        "",
        *table(["judge", "", *(f"n = {step['n']}" for step in steps)], curves),
        "",
        f"Gap: gold of the oracle minus that of the judge at n = {report['n']}. Fall: gold there "
        "minus its highest, at the n given; never above 0, so noise alone moves it below.",
        "",
        *table(["judge", "gap", "fall", "highest at", "unreadable", "failed"], ends),
    ]
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any]) -> bytes:
    """The curves as a PNG image: a panel a judge, bands are 95 % intervals."""
    from matplotlib.figure import Figure

    ns = [step["n"] for step in report["steps"]]
    judges = report["judges"]
    figure = Figure(figsize=(1.2 + 3.2 * len(judges), 3.4), layout="constrained")
    panels = figure.subplots(1, len(judges), sharey=True, squeeze=False)[0]
    for axes, (name, judge) in zip(panels, judges.items(), strict=True):
        for what, colour in (("proxy", "tab:orange"), ("gold", "tab:blue")):
            value, low, high = _bands(judge[what])
            axes.plot(ns, value, color=colour, marker="o", markersize=3, label=what)
            axes.fill_between(ns, low, high, color=colour, alpha=0.2, linewidth=0)
        best, _, _ = _bands(report["oracle"])
        axes.plot(ns, best, color="black", linestyle=":", label="gold of the oracle")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.set(title=name, xlabel="n, candidates picked from")
    panels[0].set_ylabel("score or true utility of the pick")
    panels[0].legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def _bands(curve: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats, Floats]:
    rows = np.array([[one["value"], *one["ci95"]] for one in curve], np.float64)
    return rows[:, 0], rows[:, 1], rows[:, 2]
