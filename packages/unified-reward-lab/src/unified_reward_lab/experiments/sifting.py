"""Ranking pairs and sifting by points against spending the same calls on points alone.

Candidates are drawn by the microworld, which knows the utility of each. A judge is read softly
(probabilities) and coarsely (one answer in words, drawn from them), as a sampling server would say.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward import prompts
from unified_reward.bench.metrics import Metric, mean_interval, mean_metric
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Candidate, Example, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Verdict
from unified_reward.judges.card import Calibration, CardedJudge, Replies
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.make import PairResult, pair_examples
from unified_reward.pairs.strategies import PairOptions, Strategy
from unified_reward.prompts.template import softmax
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import candidate_pool
from unified_reward_lab.microworld.items import TASKS, UNIT


WAYS: Mapping[str, PairOptions] = {
    "random": PairOptions(Strategy.RANDOM),
    "score": PairOptions(Strategy.SCORE),
    "rank": PairOptions(Strategy.RANK),
    "score, read twice": PairOptions(Strategy.SCORE, readings=2),
    "rank+sift": PairOptions(Strategy.RANK_AND_SIFT),
    "two Swiss rounds": PairOptions(Strategy.TOURNAMENT, rounds=2),
    "rank+sift, one order": PairOptions(Strategy.RANK_AND_SIFT, orders=1),
}
"""Three of them spend two calls a candidate: reading each score twice, rank+sift, and Swiss."""
REFERENCE = "score, read twice"
PERFECT = "perfect"
_SHOWN = ("better", "gap", "kept", "gain", "from_score")
_CHUNK = 16


@dataclass(frozen=True)
class Sifting:
    """Who makes pairs from what."""

    judges: Mapping[str, str] = field(
        default_factory=lambda: {
            "shipped": "tiny_judge",
            "always first": "scripted:first",
            PERFECT: PERFECT,
        }
    )
    """A reference, as `open_judge` takes it, or ``perfect``, by the name to show."""
    task: Task = Task.IMAGE_GENERATION
    n: int = 10
    """Candidates of a prompt, >= 2."""
    prompts: int = 500
    """Held-out prompts of each seed, >= 2."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Each names a series of candidates."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"the microworld has no {self.task}; it has {', '.join(TASKS)}")
        if self.n < 2 or self.prompts < 2 or not self.seeds:
            raise ConfigError("sifting needs two candidates, two prompts and a seed at least")

    @property
    def total(self) -> int:
        """Prompts worked on in all, once for each judge."""
        return len(self.judges) * self.prompts * len(self.seeds)


class Read(BaseJudge):
    """A judge whose replies are remembered, and read softly or as words drawn from them."""

    def __init__(
        self, judge: CardedJudge, how: Literal["soft", "coarse"], memory: dict[str, Replies]
    ) -> None:
        self.name, self.family = judge.name, judge.family
        self.how = how
        self.memory = memory
        """Replies by the id of the sample, in both orders."""
        self._judge = judge

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Ask what was not asked before; another reading of a score is another draw."""
        plain = [one.id.partition(" #")[0] for one in samples]
        new = {key: one for key, one in zip(plain, samples, strict=True) if key not in self.memory}
        self.memory |= zip(new, self._judge.query([*new.values()], orders=2), strict=True)
        heard: list[Replies] = []
        for key, sample in zip(plain, samples, strict=True):
            replies = self.memory[key]
            if not isinstance(replies, Failed):
                replies = replies[: orders if sample.form == "compare" else 1]
                if self.how == "coarse":
                    replies = [self._drawn(sample, i, one) for i, one in enumerate(replies)]
            heard.append(replies)
        soft = self._judge.card.calibration if self.how == "soft" else None
        return self._judge.decode(samples, heard, soft or Calibration())

    def _drawn(self, sample: Sample, order: int, reply: Answer | Failed) -> Answer | Failed:
        if isinstance(reply, Failed) or reply.choice_logprobs is None:
            return reply
        digest = hashlib.sha256(f"{sample.id} {order}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        choices = prompts.template(self.family, sample.task, sample.form).choices
        return Answer(choices[rng.choice(len(choices), p=softmax(reply.choice_logprobs))])


class Perfect(BaseJudge):
    """A judge that knows the utilities."""

    name, family = PERFECT, ""

    def __init__(self) -> None:
        self.worth: dict[tuple[str, Candidate], float] = {}
        """By prompt and candidate."""

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """The truth, in any order."""
        return [self._verdict(one) for one in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        worth = [self.worth[sample.prompt, one] for one in sample.candidates]
        if len(worth) == 1:
            return Scored(Score(worth[0], UNIT))
        first, second = float(worth[0] > worth[1]), float(worth[1] > worth[0])
        return Preferred(first, 1 - first - second, second)


class _Drawn(NamedTuple):
    """A prompt with its candidates and their utilities."""

    pool: Example
    utilities: tuple[float, ...]


def sifting(config: Sifting, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Let every judge make pairs in every way from the same candidates.

    Args:
        config: Who, and from what.
        progress: Called with the number of prompts just done.

    Returns:
        By judge, reading (``soft``, ``coarse``) and way: ``better``, the share of kept pairs whose
        chosen one has the higher utility; ``gap``, their mean difference in utility; ``kept``, the
        share of prompts that gave a pair; ``gain``, the gap with 0 where there is none;
        ``calls`` a prompt; and ``from_score``, the gain minus that of reading scores twice on the
        same prompts, with its mean by seed. Intervals are bootstraps over prompts.
    """
    judges = {name: _judged(ref, config, progress) for name, ref in config.judges.items()}
    ways = [way for judge in judges.values() for each in judge.values() for way in each.values()]
    return {
        "name": "sifting",
        "task": str(config.task),
        "n": config.n,
        "prompts": config.prompts,
        "seeds": list(config.seeds),
        "n_unparsed": sum(way["n_unparsed"] for way in ways),
        "n_failed": sum(way["n_failed"] for way in ways),
        "judges": judges,
    }


def _judged(
    reference: str, config: Sifting, progress: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    perfect, memory = Perfect(), dict[str, Replies]()
    readers: dict[str, BaseJudge] = {"soft": perfect}
    if reference != PERFECT:
        judge = open_judge(reference)
        if not isinstance(judge, CardedJudge):
            raise ConfigError(f"{reference} is no judge whose replies can be read in two manners")
        readers = {how: Read(judge, how, memory) for how in ("soft", "coarse")}
    points: dict[str, dict[str, list[_Point]]] = {how: {way: [] for way in WAYS} for how in readers}
    for seed in config.seeds:
        for start in range(0, config.prompts, _CHUNK):
            chunk = range(start, min(start + _CHUNK, config.prompts))
            drawn = [_draw(config, seed, i, perfect) for i in chunk]
            for how, reader in readers.items():
                for way, pairing in WAYS.items():
                    made = pair_examples([one.pool for one in drawn], reader, pairing)
                    points[how][way] += map(_point, made, drawn, [seed] * len(drawn))
            progress(len(drawn))
            memory.clear()
            perfect.worth.clear()
    return {how: _measured(ways) for how, ways in points.items()}


def _draw(config: Sifting, seed: int, index: int, perfect: Perfect) -> _Drawn:
    task = Task(config.task)
    made = candidate_pool(task, n=config.n, split="test", seed=seed, index=index)
    told = Example(task, made.prompt, made.candidates, made.context, id=f"{seed}-{index}")
    worth = {(made.prompt, one): u for one, u in zip(made.candidates, made.utilities, strict=True)}
    perfect.worth |= worth
    return _Drawn(told, made.utilities)


class _Point(NamedTuple):
    """What came of one prompt in one way."""

    prompt: str
    seed: int
    gap: float | None
    """Utility of the chosen one minus that of the rejected one; None without a pair."""
    calls: int
    unreadable: int
    """Verdicts that could not be asked or read."""
    failed: bool


def _point(paired: PairResult, drawn: _Drawn, seed: int) -> _Point:
    gap = None
    if paired.chosen is not None and paired.rejected is not None:
        gap = drawn.utilities[paired.chosen] - drawn.utilities[paired.rejected]
    failed = paired.status == "failed"
    return _Point(drawn.pool.prompt, seed, gap, paired.judge_calls, paired.n_unreadable, failed)


def _measured(ways: Mapping[str, Sequence[_Point]]) -> dict[str, Any]:
    reference = [point.gap or 0.0 for point in ways[REFERENCE]]
    return {way: _figures(points, reference) for way, points in ways.items()}


def _figures(points: Sequence[_Point], reference: Sequence[float]) -> dict[str, Any]:
    prompts = [one.prompt for one in points]
    kept = [(one.gap, one.prompt) for one in points if one.gap is not None]
    gaps, of = [gap for gap, _ in kept], [prompt for _, prompt in kept]
    gains = [one.gap or 0.0 for one in points]
    ahead = np.array(gains) - np.array(reference)
    seeds = np.array([one.seed for one in points])
    return {
        "better": mean_metric([float(gap > 0) for gap in gaps], of).row(),
        "gap": _mean(gaps, of),
        "kept": mean_metric([float(one.gap is not None) for one in points], prompts).row(),
        "gain": _mean(gains, prompts),
        "calls": float(np.mean([one.calls for one in points])),
        "from_score": _mean(ahead.tolist(), prompts),
        "from_score_by_seed": [float(ahead[seeds == one].mean()) for one in sorted({*seeds})],
        "n_unparsed": sum(one.unreadable for one in points),
        "n_failed": sum(one.failed for one in points),
    }


def _mean(values: Sequence[float], prompts: Sequence[str]) -> dict[str, Any]:
    if not values:
        return Metric(math.nan, (math.nan, math.nan), 0).row()
    return Metric(float(np.mean(values)), mean_interval(values, prompts), len(values)).row()


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section: how it was measured, and the figures."""
    rows: list[list[Any]] = []
    for name, judge in report["judges"].items():
        for how, ways in judge.items():
            for way, one in ways.items():
                figures = [
                    told(one[key]) for key in ("better", "gap", "kept", "gain", "from_score")
                ]
                seeds = ", ".join(f"{value:+.3f}" for value in one["from_score_by_seed"])
                rows.append([name, how, way, f"{one['calls']:.1f}", *figures, seeds])
    lines = [
        "## Ranking pairs, then sifting by points",
        "",
        f"{len(report['seeds'])} series (seeds {', '.join(map(str, report['seeds']))}) of "
        f"{report['prompts']} held-out prompts of `{report['task']}` with {report['n']} candidates "
        "each, whose utilities are known. Better: the chosen one truly is. Gap: in utility, of "
        "kept pairs. Kept: prompts that gave a pair. Gain: the gap, 0 where there is no pair. From "
        f"score: gain minus that of `{REFERENCE}` on the same prompts, and by seed. Soft: "
        "probabilities; coarse: an answer drawn from them. In brackets 95 % intervals, bootstrap "
        "over prompts; one judge of each kind.",
        "",
        *table(
            [
                "judge",
                "read",
                "way",
                "calls",
                "better",
                "gap",
                "kept",
                "gain",
                "from points",
                "by seed",
            ],
            rows,
        ),
    ]
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any]) -> bytes:
    """Gain of each way with its interval as a PNG image: a panel a judge and reading."""
    from matplotlib.figure import Figure

    panels = [
        (f"{name}, {how}", ways)
        for name, judge in report["judges"].items()
        for how, ways in judge.items()
    ]
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.6 + 2 * columns, 0.4 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, ways) in zip(grid, panels, strict=False):
        for i, one in enumerate(ways.values()):
            value, (low, high) = one["gain"]["value"], one["gain"]["ci95"]
            reach = [[value - low], [high - value]]
            axes.errorbar(value, i, xerr=reach, fmt="o", markersize=4, color="tab:blue")
        axes.set(title=title, xlabel="utility gained", xlim=(-0.05, 1))
        axes.set_yticks(range(len(ways)), list(ways))
        axes.set_ylim(len(ways) - 0.5, -0.5)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
