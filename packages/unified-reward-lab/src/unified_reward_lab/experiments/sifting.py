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
from unified_reward_lab.experiments.sifting_page import page, plot
from unified_reward_lab.microworld import candidate_pool, true_utilities
from unified_reward_lab.microworld.items import TASKS, UNIT


Mode = Literal["soft", "coarse"]
_ADAPTIVE, _SWISS, _SIFT = Strategy.ADAPTIVE, Strategy.TOURNAMENT, Strategy.RANK_AND_SIFT

STRATEGIES: Mapping[str, PairOptions] = {
    "random": PairOptions(Strategy.RANDOM),
    "score": PairOptions(Strategy.SCORE),
    "score, read twice": PairOptions(Strategy.SCORE, readings=2),
    "rank": PairOptions(Strategy.RANK),
    "rank+sift": PairOptions(_SIFT),
    "rank+sift, one order": PairOptions(_SIFT, orders=1),
    **{f"{n} Swiss rounds": PairOptions(_SWISS, rounds=n) for n in (2, 4, 6)},
    **{f"adaptive, {c:g}": PairOptions(_ADAPTIVE, confidence=c) for c in (0.6, 0.7, 0.8, 0.9)},
    "adaptive, one order": PairOptions(_ADAPTIVE, orders=1),
}
"""Settings by name; the numbers of the adaptive strategy are its confidence."""
SAMPLED: Mapping[str, PairOptions] = {
    **{f"score, read {n} times": PairOptions(Strategy.SCORE, readings=n) for n in (3, 4, 6)},
    "rank+sift, read twice": PairOptions(_SIFT, readings=2),
    **{f"adaptive, up to {n} readings": PairOptions(_ADAPTIVE, readings=n) for n in (2, 3, 4, 6)},
    "adaptive, 0.9, up to 6 readings": PairOptions(_ADAPTIVE, readings=6, confidence=0.9),
}
"""More settings, for a judge whose answers are sampled: readings that differ."""
REFERENCES = {"from_score": "score, read twice", "from_sift": "rank+sift"}
"""Strategies that all are compared with, by the key of the difference."""
PERFECT = "perfect"
SPOILED = "spoiled:"
"""Prefix of a judge's reference: its scores are made worse than its comparisons, see `_spoiled`."""
_TILT, _TEMPERATURE = 2.0, 3.0
_METRICS = ("better", "gap", "kept", "gain", *REFERENCES)
_CHUNK = 16
_DIGITS = 4


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
    """Reference of a judge, see `open_judge`, ``spoiled:`` and a reference, or ``perfect``, by the
    name to show."""
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


class CachedJudge(BaseJudge):
    """A judge with cached replies, read by their probabilities or as sampled answers."""

    def __init__(
        self, judge: CardedJudge, mode: Mode, cache: dict[str, Replies], *, spoiled: bool = False
    ) -> None:
        self.name, self.family, self.order_free = judge.name, judge.family, judge.order_free
        self.mode = mode
        self.cache = cache
        """Replies by question, in both orders, that of the lower candidate first."""
        self._judge = judge
        self._spoiled = spoiled

    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Ask the samples that are not cached; a repeated score samples another answer."""
        questions = [_question(sample) for sample in samples]
        new = {key: sample for key, sample, _ in questions if key not in self.cache}
        self.cache |= zip(new, self._judge.query([*new.values()], orders=2), strict=True)
        replies: list[Replies] = []
        for sample, (key, _, is_swapped) in zip(samples, questions, strict=True):
            cached = self.cache[key]
            if not isinstance(cached, Failed):
                if self._spoiled and sample.form == "score":
                    cached = [_spoiled(key, reply) for reply in cached]
                if self.mode == "coarse":
                    name = key + "".join(sample.id.partition(" #")[1:])
                    cached = [self._answer(sample, name, k, r) for k, r in enumerate(cached)]
                cached = cached[::-1] if is_swapped else cached
                cached = cached[: orders if sample.form == "compare" else 1]
            replies.append(cached)
        soft = self._judge.card.calibration if self.mode == "soft" else None
        return self._judge.decode(samples, replies, soft or Calibration())

    def _answer(
        self, sample: Sample, name: str, order: int, reply: Answer | Failed
    ) -> Answer | Failed:
        """One answer sampled from the probabilities, by the name of the question."""
        if isinstance(reply, Failed) or reply.choice_logprobs is None:
            return reply
        digest = hashlib.sha256(f"{name} {order}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        choices = prompts.template(self.family, sample.task, sample.form).choices
        return Answer(choices[rng.choice(len(choices), p=softmax(reply.choice_logprobs))])


def _spoiled(name: str, reply: Answer | Failed) -> Answer | Failed:
    """A score with an error: its log-probabilities tilted, then divided by a temperature.

    The tilt is ``e k`` for step ``k`` of the scale, with ``e`` normal of deviation `_TILT`, by the
    name of the question, so that repeating the question gives the same error.
    """
    if isinstance(reply, Failed) or reply.choice_logprobs is None:
        return reply
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    tilt = rng.normal(0, _TILT)
    tilted = [(p + tilt * k) / _TEMPERATURE for k, p in enumerate(reply.choice_logprobs)]
    return replace(reply, choice_logprobs=tuple(np.log(softmax(tilted)).tolist()))


def _question(sample: Sample) -> tuple[str, Sample, bool]:
    """Key of a sample's question, the sample that asks it, and whether its order is the other."""
    name = sample.id.partition(" #")[0]
    example, _, candidates = name.rpartition(" ")
    numbers = [int(number) for number in candidates.split("-")]
    if numbers == sorted(numbers):
        return name, sample, False
    return f"{example} {'-'.join(map(str, sorted(numbers)))}", sample.swapped(), True


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
        pair; ``calls`` per prompt; and the gain minus that of reading scores twice
        (``from_score``) and of rank+sift (``from_sift``) on the same prompts, with means by seed.
        Intervals are bootstraps over prompts.
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
        judge = open_judge(reference.removeprefix(SPOILED))
        if not isinstance(judge, CardedJudge):
            raise ConfigError(f"{reference} has no probabilities that could be read in two modes")
        samples = judge.describe()["kind"] == "generative"
        modes: tuple[Mode, ...] = ("soft", "coarse") if samples else ("soft",)
        spoiled = reference.startswith(SPOILED)
        readers = {mode: CachedJudge(judge, mode, cache, spoiled=spoiled) for mode in modes}
    settings = {m: {**STRATEGIES, **(SAMPLED if m == "coarse" else {})} for m in readers}
    points: dict[str, dict[str, list[_Point]]] = {m: {s: [] for s in settings[m]} for m in readers}
    for seed in config.seeds:
        for start in range(0, config.prompts, _CHUNK):
            indices = range(start, min(start + _CHUNK, config.prompts))
            pools = [_pool(config, seed, i) for i in indices]
            for pool in pools:
                keys = [(pool.prompt, candidate) for candidate in pool.candidates]
                perfect.utilities |= zip(keys, true_utilities(pool), strict=True)
            for mode, reader in readers.items():
                for name, options in settings[mode].items():
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
    references = {
        key: np.array([point.gap or 0.0 for point in points[name]])
        for key, name in REFERENCES.items()
    }
    return {name: _rounded(_metrics(each, references)) for name, each in points.items()}


def _metrics(points: Sequence[_Point], references: Mapping[str, np.ndarray]) -> dict[str, Any]:
    prompts = [point.prompt for point in points]
    gaps = [point.gap for point in points]
    better = [(float(gap > 0), p) for gap, p in zip(gaps, prompts, strict=True) if gap is not None]
    gains = [gap or 0.0 for gap in gaps]
    seeds = np.array([point.seed for point in points])
    metrics = {
        "better": mean_metric([point for point, _ in better], [p for _, p in better]).row(),
        "gap": mean_known(gaps, prompts),
        "kept": mean_metric([float(gap is not None) for gap in gaps], prompts).row(),
        "gain": mean_known(gains, prompts),
        "calls": float(np.mean([point.calls for point in points])),
        "n_unparsed": sum(point.n_unreadable for point in points),
        "n_failed": sum(point.failed for point in points),
    }
    for key, reference in references.items():
        ahead = np.array(gains) - reference
        metrics[key] = mean_known(ahead.tolist(), prompts)
        metrics[f"{key}_by_seed"] = [float(ahead[seeds == s].mean()) for s in sorted({*seeds})]
    return metrics


def _rounded(value: Any) -> Any:
    """Round all numbers of a report; the page shows fewer digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


EXPERIMENT = Experiment(SiftingStudy, run, page, plot)
