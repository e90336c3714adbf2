"""Figures of the study of reinforcement learning, from the exams of its arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward_lab.alignment import ExamConfig
from unified_reward_lab.bench.oracle import gap_closed, mean_known
from unified_reward_lab.experiments.reinforcement_arms import ARMS, PARTS


Exam = Mapping[str, Any]
"""``oracle``: scores or None, one a prompt; ``rewards``: likewise by judge."""
_Part = Callable[[float | None, float | None], float]
_GAINS: Mapping[str, _Part] = {
    "gain": lambda a, b: (b or 0.0) - (a or 0.0),
    "became_right": lambda a, b: b - a if a is not None and b is not None else 0.0,
    "became_readable": lambda a, b: b if a is None and b is not None else 0.0,
    "became_unreadable": lambda a, b: -a if a is not None and b is None else 0.0,
}
JUDGE = "unified"
"""Judge by whose reward arms are compared."""
_COSTS = ("questions", "failures")


def build_report(
    before: Mapping[str, Exam], done: Mapping[str, Sequence[Exam]], exam: ExamConfig
) -> dict[str, Any]:
    """Collect the figures of all arms.

    Args:
        before: Exam of each policy, by task.
        done: Exams of each arm's trainings, in the order of their seeds.
        exam: Settings of the exam.

    Returns:
        ``before`` by task, with the ``agreement`` of each judge with the oracle; ``arms`` with
        costs, gains, what they are the sum of, readable share, rewards by judge, and curves;
        ``contrasts`` between arms, paired by prompt and seed.
    """
    prompts = [str(i) for i in range(exam.n)]
    return {
        "name": "reinforcement",
        "n": exam.n,
        "seed": exam.seed,
        "n_unparsed": 0,
        "n_failed": 0,
        "before": {
            task: _state([each], prompts) | {"agreement": _agreement(each)}
            for task, each in before.items()
        },
        "arms": {
            name: _summarise(before[ARMS[name].task.value], exams, prompts) | {"seeds": len(exams)}
            for name, exams in done.items()
        },
        "contrasts": {
            f"{name} - {other}": lead(done[name], done[other], prompts)
            for name, other in contrasts(done)
        },
    }


def contrasts(done: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of arms that are compared: each of a question with the others of it."""
    pairs = [
        (name, other)
        for names in PARTS.values()
        for i, name in enumerate(names)
        for other in names[i + 1 :]
    ]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a in done and b in done]


def lead(one: Sequence[Exam], other: Sequence[Exam], prompts: Sequence[str]) -> dict[str, Any]:
    """Mean lead of an arm over another, over the seeds that both have.

    Returns:
        ``oracle``, and ``reward``, that of the judge `JUDGE`.
    """
    n = min(len(one), len(other))
    first, second = one[:n], other[:n]
    return {
        "oracle": _over_prompts(second, first, _GAINS["gain"], prompts).row(),
        "reward": _reward_gain(second, first, JUDGE, prompts),
    }


def _over_prompts(
    before: Sequence[Exam], after: Sequence[Exam], part: _Part, prompts: Sequence[str]
) -> Metric:
    """Mean over prompts and seeds; the interval resamples prompts with all their seeds."""
    values = [
        part(a, b)
        for old, new in zip(before, after, strict=True)
        for a, b in zip(old["oracle"], new["oracle"], strict=True)
    ]
    clusters = [*prompts] * len(after)
    return Metric(float(np.mean(values)), mean_interval(values, clusters), len(values))


def _state(exams: Sequence[Exam], prompts: Sequence[str]) -> dict[str, Any]:
    clusters = [*prompts] * len(exams)
    scores = [score for exam in exams for score in exam["oracle"]]
    judges = [name for name in exams[0]["rewards"] if all(name in e["rewards"] for e in exams)]
    return {
        "oracle": mean_known([score or 0.0 for score in scores], clusters),
        "readable": mean_known([float(score is not None) for score in scores], clusters),
        "rewards": {
            name: mean_known([v for exam in exams for v in exam["rewards"][name]], clusters)
            for name in judges
        },
    }


def _agreement(exam: Exam) -> dict[str, float | None]:
    """Spearman's correlation of each judge's scores with the oracle's, 0 for unreadable."""
    truth = np.array([score or 0.0 for score in exam["oracle"]])
    found: dict[str, float | None] = {}
    for name, given in exam["rewards"].items():
        scored = np.array(given, float)
        known = ~np.isnan(scored)
        value = float(stats.spearmanr(scored[known], truth[known]).statistic)
        found[name] = None if np.isnan(value) else round(value, 4)
    return found


def _summarise(before: Exam, exams: Sequence[Exam], prompts: Sequence[str]) -> dict[str, Any]:
    old = [before] * len(exams)
    figures = {
        name: _over_prompts(old, exams, part, prompts).row() for name, part in _GAINS.items()
    }
    start = float(np.mean([score or 0.0 for score in before["oracle"]]))
    return {
        **figures,
        "by_seed": [
            round(_over_prompts([before], [exam], _GAINS["gain"], prompts).value, 4)
            for exam in exams
        ],
        "gap_closed": gap_closed(start, start + figures["gain"]["value"]),
        **_state(exams, prompts),
        "reward_gains": {
            judge: _reward_gain(old, exams, judge, prompts)
            for judge in before["rewards"]
            if all(judge in exam["rewards"] for exam in exams)
        },
        **{name: round(float(np.mean([exam[name] for exam in exams])), 1) for name in _COSTS},
        "network": round(float(np.mean([exam["network"]["total"] for exam in exams]))),
        "curve": mean_curve([exam["curve"] for exam in exams if exam.get("curve")]),
    }


def _reward_gain(
    before: Sequence[Exam], after: Sequence[Exam], judge: str, prompts: Sequence[str]
) -> dict[str, Any]:
    values = [
        None if a is None or b is None else b - a
        for old, new in zip(before, after, strict=True)
        for a, b in zip(old["rewards"][judge], new["rewards"][judge], strict=True)
    ]
    return mean_known(values, [*prompts] * len(after))


def mean_curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean over seeds of the measurements on held-out prompts, with the standard error.

    Args:
        curves: Rows of `WatchedReward` by seed; a measurement comes before the step of its number.
    """
    points: list[list[tuple[int, Mapping[str, Any]]]] = []
    for rows in curves:
        step, found = 0, []
        for row in rows:
            if row["held_out"]:
                found.append((step, row))
            else:
                step += 1
        points.append(found)
    means: list[dict[str, Any]] = []
    for at_once in zip(*points, strict=False):
        row: dict[str, Any] = {"step": at_once[0][0], "seeds": len(at_once)}
        for name in ("reward", "second", "oracle", "readable"):
            values = np.array([each[name] for _, each in at_once], float)
            row[name] = round(float(values.mean()), 4)
            spread = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
            row[f"{name}_se"] = round(float(spread), 4)
        means.append(row)
    return means
