"""Sifting: pair strategies compared at equal numbers of judge calls.

Candidates come from the microworld, which knows their utilities. Each judge is read in two modes:
``soft`` uses its probabilities, ``coarse`` one answer sampled from them, as from a server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward import prompts
from unified_reward.bench.metrics import mean_metric
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Candidate, Example, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Verdict
from unified_reward.judges.card import Calibration, CardedJudge
from unified_reward.judges.model_judge import Replies
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.make import PairResult, pair_examples
from unified_reward.pairs.strategies import PairOptions, Strategy
from unified_reward.prompts.template import softmax
from unified_reward_lab.bench.oracle import mean_known
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import png, table, with_interval
from unified_reward_lab.microworld import candidate_pool, true_utilities
from unified_reward_lab.microworld.items import TASKS, UNIT


STRATEGIES: Mapping[str, PairOptions] = {
    "random": PairOptions(Strategy.RANDOM),
    "score": PairOptions(Strategy.SCORE),
    "rank": PairOptions(Strategy.RANK),
    "score, read twice": PairOptions(Strategy.SCORE, readings=2),
    "rank+sift": PairOptions(Strategy.RANK_AND_SIFT),
    "two Swiss rounds": PairOptions(Strategy.TOURNAMENT, rounds=2),
    "rank+sift, one order": PairOptions(Strategy.RANK_AND_SIFT, orders=1),
}
"""Three strategies take two calls per candidate: score read twice, rank+sift and Swiss."""
REFERENCE = "score, read twice"
PERFECT = "perfect"
_METRICS = ("better", "gap", "kept", "gain", "from_score")
_CHUNK = 16


@dataclass(frozen=True)
class SiftingStudy:
    """Judges, and the candidates they make pairs of."""

    judges: Mapping[str, str] = field(
        default_factory=lambda: {
            "shipped": "tiny_judge",
            "always first": "scripted:first",
            PERFECT: PERFECT,
        }
    )
    """Reference of a judge, see `open_judge`, or ``perfect``, by the name to show."""
    task: Task = Task.IMAGE_GENERATION
    n: int = 10
    """Candidates per prompt, >= 2."""
    prompts: int = 500
    """Held-out prompts per seed, >= 2."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds of series of candidates."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"the microworld has no {self.task}; it has {', '.join(TASKS)}")
        if self.n < 2 or self.prompts < 2 or not self.seeds:
            raise ConfigError("sifting needs at least two candidates, two prompts and one seed")

    @property
    def total(self) -> int:
        """Number of prompts, over all judges."""
        return len(self.judges) * self.prompts * len(self.seeds)


Mode = Literal["soft", "coarse"]


class CachedJudge(BaseJudge):
    """A judge with cached replies, read by their probabilities or as sampled answers."""

    def __init__(self, judge: CardedJudge, mode: Mode, cache: dict[str, Replies]) -> None:
        self.name, self.family = judge.name, judge.family
        self.mode = mode
        self.cache = cache
        """Replies by the id of the sample, in both orders."""
        self._judge = judge

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Ask the samples that are not cached; a repeated score samples another answer."""
        keys = [sample.id.partition(" #")[0] for sample in samples]
        new = {key: s for key, s in zip(keys, samples, strict=True) if key not in self.cache}
        self.cache |= zip(new, self._judge.query([*new.values()], orders=2), strict=True)
        replies: list[Replies] = []
        for key, sample in zip(keys, samples, strict=True):
            cached = self.cache[key]
            if not isinstance(cached, Failed):
                cached = cached[: orders if sample.form == "compare" else 1]
                if self.mode == "coarse":
                    cached = [self._answer(sample, i, reply) for i, reply in enumerate(cached)]
            replies.append(cached)
        soft = self._judge.card.calibration if self.mode == "soft" else None
        return self._judge.decode(samples, replies, soft or Calibration())

    def _answer(self, sample: Sample, order: int, reply: Answer | Failed) -> Answer | Failed:
        """One answer sampled from the probabilities, by the id of the sample."""
        if isinstance(reply, Failed) or reply.choice_logprobs is None:
            return reply
        digest = hashlib.sha256(f"{sample.id} {order}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        choices = prompts.template(self.family, sample.task, sample.form).choices
        return Answer(choices[rng.choice(len(choices), p=softmax(reply.choice_logprobs))])


class PerfectJudge(BaseJudge):
    """A judge that knows the utilities."""

    name, family = PERFECT, ""

    def __init__(self) -> None:
        self.utilities: dict[tuple[str, Candidate], float] = {}
        """True utility by prompt and candidate."""

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Return the truth, in any order."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        utilities = [self.utilities[sample.prompt, candidate] for candidate in sample.candidates]
        if len(utilities) == 1:
            return Scored(Score(utilities[0], UNIT))
        first, second = (float(utilities[i] > utilities[1 - i]) for i in (0, 1))
        return Preferred(first, 1 - first - second, second)


def run(config: SiftingStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Let every judge make pairs by every strategy from the same candidates.

    Args:
        config: Judges and candidates.
        progress: Called with the number of prompts just done.

    Returns:
        By judge, mode (``soft``, ``coarse``) and strategy: ``better``, the share of kept pairs
        whose chosen candidate has the higher utility; ``gap``, their mean difference in utility;
        ``kept``, the share of prompts with a pair; ``gain``, the gap with 0 where there is no
        pair; ``calls`` per prompt; and ``from_score``, the gain minus that of reading scores twice
        on the same prompts, with its mean by seed. Intervals are bootstraps over prompts.
    """
    judges = {name: _measure(ref, config, progress) for name, ref in config.judges.items()}
    rows = [row for judge in judges.values() for mode in judge.values() for row in mode.values()]
    return {
        "name": "sifting",
        "task": str(config.task),
        "n": config.n,
        "prompts": config.prompts,
        "seeds": list(config.seeds),
        "n_unparsed": sum(row["n_unparsed"] for row in rows),
        "n_failed": sum(row["n_failed"] for row in rows),
        "judges": judges,
    }


def _measure(
    reference: str, config: SiftingStudy, progress: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    perfect, cache = PerfectJudge(), dict[str, Replies]()
    readers: dict[str, BaseJudge] = {"soft": perfect}
    if reference != PERFECT:
        judge = open_judge(reference)
        if not isinstance(judge, CardedJudge):
            raise ConfigError(f"{reference} has no probabilities that could be read in two modes")
        modes: tuple[Mode, ...] = ("soft", "coarse")
        readers = {mode: CachedJudge(judge, mode, cache) for mode in modes}
    points: dict[str, dict[str, list[_Point]]] = {m: {s: [] for s in STRATEGIES} for m in readers}
    for seed in config.seeds:
        for start in range(0, config.prompts, _CHUNK):
            indices = range(start, min(start + _CHUNK, config.prompts))
            pools = [_pool(config, seed, i) for i in indices]
            for pool in pools:
                keys = [(pool.prompt, candidate) for candidate in pool.candidates]
                perfect.utilities |= zip(keys, true_utilities(pool), strict=True)
            for mode, reader in readers.items():
                for name, options in STRATEGIES.items():
                    results = pair_examples(pools, reader, options)
                    points[mode][name] += [_point(result, seed) for result in results]
            progress(len(pools))
            cache.clear()
            perfect.utilities.clear()
    return {mode: _summarise(by_strategy) for mode, by_strategy in points.items()}


def _pool(config: SiftingStudy, seed: int, index: int) -> Example:
    pool = candidate_pool(Task(config.task), n=config.n, split="test", seed=seed, index=index)
    return replace(pool, id=f"{seed}-{index}")


class _Point(NamedTuple):
    """Result of one prompt by one strategy."""

    prompt: str
    seed: int
    gap: float | None
    """Utility of the chosen candidate minus that of the rejected one; None without a pair."""
    calls: int
    n_unreadable: int
    failed: bool


def _point(result: PairResult, seed: int) -> _Point:
    gap = None
    if result.chosen is not None and result.rejected is not None:
        utilities = true_utilities(result.example)
        gap = utilities[result.chosen] - utilities[result.rejected]
    return _Point(
        result.example.prompt,
        seed,
        gap,
        result.judge_calls,
        result.n_unreadable,
        result.status == "failed",
    )


def _summarise(points: Mapping[str, Sequence[_Point]]) -> dict[str, Any]:
    reference = [point.gap or 0.0 for point in points[REFERENCE]]
    return {name: _metrics(each, reference) for name, each in points.items()}


def _metrics(points: Sequence[_Point], reference: Sequence[float]) -> dict[str, Any]:
    prompts = [point.prompt for point in points]
    gaps = [point.gap for point in points]
    better = [(float(gap > 0), p) for gap, p in zip(gaps, prompts, strict=True) if gap is not None]
    gains = [gap or 0.0 for gap in gaps]
    ahead = np.array(gains) - np.array(reference)
    seeds = np.array([point.seed for point in points])
    return {
        "better": mean_metric([point for point, _ in better], [p for _, p in better]).row(),
        "gap": mean_known(gaps, prompts),
        "kept": mean_metric([float(gap is not None) for gap in gaps], prompts).row(),
        "gain": mean_known(gains, prompts),
        "calls": float(np.mean([point.calls for point in points])),
        "from_score": mean_known(ahead.tolist(), prompts),
        "from_score_by_seed": [float(ahead[seeds == seed].mean()) for seed in sorted({*seeds})],
        "n_unparsed": sum(point.n_unreadable for point in points),
        "n_failed": sum(point.failed for point in points),
    }


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    rows: list[list[Any]] = []
    for name, judge in report["judges"].items():
        for mode, by_strategy in judge.items():
            for strategy, row in by_strategy.items():
                metrics = [with_interval(row[metric]) for metric in _METRICS]
                seeds = ", ".join(f"{value:+.3f}" for value in row["from_score_by_seed"])
                rows.append([name, mode, strategy, f"{row['calls']:.1f}", *metrics, seeds])
    head = ["judge", "mode", "strategy", "calls", "better", "gap", "kept", "gain", "minus score"]
    lines = [
        "## Ranking pairs, then sifting by score",
        "",
        f"{len(report['seeds'])} series (seeds {', '.join(map(str, report['seeds']))}) of "
        f"{report['prompts']} held-out prompts of `{report['task']}` with {report['n']} candidates "
        "each, whose utilities are known. Better: share of kept pairs whose chosen candidate has "
        "the higher utility. Gap: difference in utility of kept pairs. Kept: share of prompts with "
        "a pair. Gain: the gap, 0 where there is no pair. Minus score: gain minus that of "
        f"`{REFERENCE}` on the same prompts, and by seed. Soft: probabilities; coarse: an answer "
        "sampled from them. In brackets 95 % intervals, bootstrap over prompts; one judge of each "
        "kind.",
        "",
        *table([*head, "by seed"], rows),
    ]
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the gain of each strategy with its interval: one panel per judge and mode."""
    from matplotlib.figure import Figure

    panels = [
        (f"{name}, {mode}", by_strategy)
        for name, judge in report["judges"].items()
        for mode, by_strategy in judge.items()
    ]
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.6 + 2 * columns, 0.4 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, by_strategy) in zip(grid, panels, strict=False):
        for i, row in enumerate(by_strategy.values()):
            value, (low, high) = row["gain"]["value"], row["gain"]["ci95"]
            reach = [[value - low], [high - value]]
            axes.errorbar(value, i, xerr=reach, fmt="o", markersize=4, color="tab:blue")
        axes.set(title=title, xlabel="utility gained", xlim=(-0.05, 1))
        axes.set_yticks(range(len(by_strategy)), list(by_strategy))
        axes.set_ylim(len(by_strategy) - 0.5, -0.5)
    return png(figure)


EXPERIMENT = Experiment(SiftingStudy, run, page, plot)
