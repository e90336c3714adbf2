"""Preference pairs from candidates: a strategy's questions, put to a judge, and its outcome.

The questions about several prompts go to the judge together, in large batches. Knows neither
journals nor where the judge runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Candidate, Example, Pair, PreferencePair, Sample
from unified_reward.core.verdicts import Scored, Verdict
from unified_reward.io.atomic import replacing
from unified_reward.io.candidate_files import store
from unified_reward.io.rows import CandidateDetails, Row, candidate_row, pair_keys, parts_rows
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.pairs.strategies import (
    STRATEGIES,
    CandidatePool,
    Comparison,
    Outcome,
    PairOptions,
    Questions,
    Status,
    Strategy,
    unreadable_reason,
)


Side = Literal["chosen", "rejected"]
WINDOW = 16
"""Prompts whose media are in memory together."""


@dataclass(frozen=True)
class PairResult:
    """Pair of a prompt, or the reason why there is none, with the judge's verdicts."""

    example: Example
    status: Status
    """``kept``: there is a pair; ``dropped``: the judge sees none; ``failed``: it could not be
    asked or read."""
    reason: str | None
    """Reason if there is no pair."""
    chosen: int | None
    """Index of the chosen candidate."""
    rejected: int | None
    """Index of the rejected candidate."""
    scores: Mapping[int, float]
    """Scores by candidate, in units of the judge's; for a tournament strengths in log-odds."""
    comparisons: tuple[Comparison, ...]
    candidate_reasons: Mapping[int, str]
    """Reason by candidate for having been left out, or having no score."""
    judge_calls: int
    """Questions put to the judge; a comparison in both orders counts as two."""
    n_unreadable: int
    """Comparisons and scores without a readable answer."""
    judge: str
    family: str
    options: PairOptions

    @property
    def pair(self) -> PreferencePair | None:
        """The preference pair, as DPO takes it; None unless the status is ``kept``."""
        return self.as_example().as_pair() if self.status == "kept" else None

    @property
    def sides(self) -> dict[int, Side]:
        """Side by candidate: of the pair, and of each decided comparison of a ranked pair."""
        sides: dict[int, Side] = {}
        if self.options.strategy in (Strategy.RANK, Strategy.RANK_AND_SIFT):
            for comparison in self.comparisons:
                if comparison.decision:
                    winner, loser = comparison.decision
                    sides |= {winner: "chosen", loser: "rejected"}
        if self.chosen is not None and self.rejected is not None:
            sides |= {self.chosen: "chosen", self.rejected: "rejected"}
        return sides

    def as_example(self) -> Example:
        """Return the example, with the pair where there is one; it can teach a judge."""
        if self.chosen is None or self.rejected is None:
            return replace(self.example, pair=None)
        scores = self.scores.get(self.chosen), self.scores.get(self.rejected)
        return replace(self.example, pair=Pair(self.chosen, self.rejected, *scores))

    def row(self, folder: Path) -> dict[str, Any]:
        """Write the result as a pairs row of a file in ``folder``.

        Raises:
            DataError: A medium is in memory, not in a file.
        """
        example, sides = self.example, self.sides
        candidates = [
            candidate_row(
                candidate,
                folder,
                CandidateDetails(self.scores.get(i), sides.get(i), self.candidate_reasons.get(i)),
            )
            for i, candidate in enumerate(example.candidates)
        ]
        return {
            "id": example.id,
            "status": self.status,
            "reason": self.reason,
            "task": example.task.value,
            "prompt": example.prompt,
            "context": parts_rows(example.context, folder),
            **pair_keys(self.as_example(), folder),
            "criteria": example.criteria,
            "tags": dict(example.tags),
            "candidates": candidates,
            "comparisons": [self._comparison_row(comparison) for comparison in self.comparisons],
            **_made_by(self.judge_calls, self.judge, self.family, self.options),
        }

    def _comparison_row(self, comparison: Comparison) -> dict[str, Any]:
        row = verdict_row("", comparison.verdict, judge=self.judge, family=self.family)
        keys = ("winner", "probability", "orders", "reason")
        return {"a": comparison.a, "b": comparison.b} | {key: row[key] for key in keys}


def failed_row(
    row: Row, reason: str, judge: BaseJudge, options: PairOptions, folder: Path
) -> dict[str, Any]:
    """Write the pairs row, of a file in ``folder``, of a row whose candidates cannot be read."""
    prompt = row.prompt
    missing = ("chosen", "rejected", "chosen_score", "rejected_score")
    return {
        "id": row.id,
        "status": "failed",
        "reason": reason,
        "task": prompt.task.value if prompt else None,
        "prompt": prompt.prompt if prompt else None,
        "context": parts_rows(prompt.context, folder) if prompt else None,
        **dict.fromkeys(missing),
        "criteria": prompt.criteria if prompt else "",
        "tags": dict(prompt.tags) if prompt else {},
        "candidates": [],
        "comparisons": [],
        **_made_by(0, judge.name, judge.family, options),
    }


def _made_by(calls: int, judge: str, family: str, options: PairOptions) -> dict[str, Any]:
    return {
        "judge_calls": calls,
        "judge": judge,
        "family": family,
        "strategy": options.strategy.value,
        "seed": options.seed,
    }


def make_pairs(  # noqa: PLR0913  the options of a pair, each by its name
    examples: Iterable[Example | Sample],
    judge: BaseJudge,
    *,
    strategy: Strategy | str = Strategy.RANK_AND_SIFT,
    margin: float = 0.0,
    min_quality: float | None = None,
    orders: Literal[1, 2] = 2,
    readings: int = 1,
    rounds: int = 0,
    seed: int = 0,
    confidence: float | None = None,
) -> list[PairResult]:
    """Find a chosen and a rejected candidate for every prompt.

    The media of at most 16 prompts are in memory together, and each is decoded once.

    Args:
        examples: Prompts with candidates, as from `make_candidates` or a file, or samples. The
            order in which candidates meet follows from id and seed, so ids should differ.
        judge: A judge, as from `open_judge`.
        strategy: ``rank+sift`` (default) compares disjoint random pairs, then takes the
            highest-scoring winner and the lowest-scoring loser; the others see `Strategy`.
        margin: The chosen candidate must be above the rejected one by more than this, >= 0, in
            units of the judge's score, or in log-odds for a tournament.
        min_quality: Lowest score of a chosen candidate, in units of the judge's score.
        orders: 2 asks each comparison in both orders and averages, 1 in one order.
        readings: Times a score is asked and averaged, >= 1.
        rounds: Swiss rounds of a tournament; 0 compares all with all.
        seed: Random seed of the order of the candidates.
        confidence: Probability at which ``adaptive`` asks no more, in (0.5, 1); None for 0.7.

    Returns:
        One result for each example, in order. ``result.pair`` is the preference pair; `write_pairs`
        writes the file that `align` reads.

    Raises:
        ConfigError: Options do not fit the strategy.

    >>> from unified_reward.core.samples import Image, Task
    >>> from unified_reward.judges.registry import open_judge
    >>> image = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    >>> question = Example(
    ...     Task.IMAGE_UNDERSTANDING, "What is it?", ("a cat", "a dog"), (image,), id="q1"
    ... )
    >>> judge = open_judge("scripted:first")
    >>> (result,) = make_pairs([question], judge, strategy="rank", orders=1)
    >>> result.status, result.judge_calls, result.pair.chosen, result.pair.rejected
    ('kept', 1, 'a dog', 'a cat')
    """
    try:
        strategy = Strategy(strategy)
    except ValueError:
        raise ConfigError(
            f"there is no strategy {strategy!r}; there are {', '.join(Strategy)}"
        ) from None
    options = PairOptions(strategy, margin, min_quality, orders, readings, rounds, seed, confidence)
    prompts = [Example.of(each) if isinstance(each, Sample) else each for each in examples]
    return pair_examples(prompts, judge, options)


def write_pairs(results: Iterable[PairResult], path: str | Path) -> Counter[str]:
    """Write pairs as the file that `align`, `export_pairs` and the commands read.

    Args:
        results: Pairs, as from `make_pairs`; those dropped or failed are written with their reason.
        path: The file, JSONL, which is replaced. Media in memory are written to ``media/`` beside
            it; those in files are named by relative paths.

    Returns:
        How many are ``kept``, ``dropped`` and ``failed``.

    Raises:
        DataError: An id stands twice, or a file cannot be written; ``path`` stays as it was.
        MediaError: A medium in memory cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> import unified_reward as ur
        >>> pixels = [ur.Image(np.full((8, 8, 3), grey, np.uint8), "HWC") for grey in (0, 255)]
        >>> example = ur.Example(ur.Task.IMAGE_GENERATION, "white", tuple(pixels), id="w")
        >>> results = ur.make_pairs([example], ur.open_judge("scripted:first"), strategy="rank")
        >>> folder = Path(mkdtemp())
        >>> dict(write_pairs(results, folder / "pairs.jsonl"))
        {'dropped': 1}
        >>> len([*folder.glob("media/*.png")])
        2
    """
    path, counts, ids = Path(path), Counter[str](), set[str]()
    with replacing(path) as file:
        for result in results:
            if result.example.id in ids:
                raise DataError(f"duplicate id {result.example.id!r}: ids of a file must differ")
            ids.add(result.example.id)
            row = replace(result, example=store(result.example, path.parent)).row(path.parent)
            file.write(
                f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n".encode(errors="replace")
            )
            counts[result.status] += 1
    return counts


def pair_examples(
    examples: Sequence[Example], judge: BaseJudge, options: PairOptions
) -> list[PairResult]:
    """Find a pair for every prompt; see `make_pairs`, whose options are here one value."""
    results: list[PairResult] = []
    for start in range(0, len(examples), WINDOW):
        with judge.cache_media():
            window = [
                _Prompt(example, options, order_free=judge.order_free)
                for example in examples[start : start + WINDOW]
            ]
            for prompt in window:
                prompt.exclude_unusable(judge)
            results += _ask_together(window, judge, options)
    return results


def _ask_together(
    prompts: Sequence[_Prompt], judge: BaseJudge, options: PairOptions
) -> list[PairResult]:
    """Ask for all prompts in turns; the questions of a turn are one call of the judge."""
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(prompts):
        questions: dict[int, Questions] = {}
        for i, prompt in enumerate(prompts):
            if i not in outcomes:
                step = prompt.next_step()
                if isinstance(step, Outcome):
                    outcomes[i] = step
                else:
                    questions[i] = step
        samples = {i: prompts[i].samples(turn) for i, turn in questions.items()}
        flat = [sample for each in samples.values() for sample in each]
        verdicts = iter(judge.ask(flat, orders=options.orders_at_once) if flat else ())
        for i, each in samples.items():
            prompts[i].record(questions[i], [next(verdicts) for _ in each])
    return [prompt.result(outcomes[i], judge) for i, prompt in enumerate(prompts)]


class _Prompt:
    """Candidates of one prompt on their way to a pair."""

    def __init__(self, example: Example, options: PairOptions, *, order_free: bool) -> None:
        self.example = example
        self.options = options
        self.pool = CandidatePool(options, (), order_free=order_free)
        self.excluded: dict[int, str] = {}
        self.judge_calls = 0

    def exclude_unusable(self, judge: BaseJudge) -> None:
        """Leave out candidates that equal an earlier one and those the judge cannot open."""
        firsts: dict[Candidate, int] = {}
        samples: dict[int, Sample] = {}
        for i, candidate in enumerate(self.example.candidates):
            first = firsts.setdefault(candidate, i)
            if first == i:
                samples[i] = self._sample(i)
            else:
                self.excluded[i] = f"the same as candidate {first}"
        errors = judge.check_samples([*samples.values()])
        self.excluded |= {i: e.reason for i, e in zip(samples, errors, strict=True) if e}
        usable = [i for i in samples if i not in self.excluded]
        digest = hashlib.sha256(f"{self.example.id} {self.options.seed}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        self.pool.order = [usable[k] for k in rng.permutation(len(usable))]

    def next_step(self) -> Questions | Outcome:
        """Return the next questions of the strategy, or its outcome."""
        n, total = len(self.pool.order), len(self.example.candidates)
        if n >= 2:
            return STRATEGIES[self.options.strategy](self.pool)
        reasons = "; ".join(sorted(set(self.excluded.values()))[:3])
        short = f"{n} of {total} candidates can be judged, two are needed"
        return Outcome("failed", f"{short}: {reasons}" if reasons else short)

    def samples(self, questions: Questions) -> list[Sample]:
        """Return the questions as samples; each reading of a score is one, with its own id."""
        samples = [self._sample(a, b) for a, b in questions.compare]
        for i in questions.score:
            samples.append(self._sample(i, reading=self.pool.n_asked[i]))
            self.pool.n_asked[i] += 1
        return samples

    def record(self, questions: Questions, verdicts: Sequence[Verdict]) -> None:
        """Add the verdicts on `samples` to the pool."""
        pool, answers = self.pool, iter(verdicts)
        pool.turns += 1
        pool.comparisons += [Comparison(a, b, next(answers)) for a, b in questions.compare]
        unreadable: dict[int, str] = {}
        for i in questions.score:
            verdict = next(answers)
            if isinstance(verdict, Scored) and verdict.score:
                pool.readings.setdefault(i, []).append(verdict.score)
            else:
                unreadable.setdefault(i, unreadable_reason(verdict))
        pool.reasons |= {i: why for i, why in unreadable.items() if i not in pool.readings}
        self.judge_calls += len(questions.compare) * self.options.orders_at_once
        self.judge_calls += len(questions.score)

    def result(self, outcome: Outcome, judge: BaseJudge) -> PairResult:
        """Return the outcome with everything that is known."""
        pool = self.pool
        unreadable = sum(comparison.p_a is None for comparison in pool.comparisons)
        return PairResult(
            self.example,
            outcome.status,
            outcome.reason,
            outcome.chosen,
            outcome.rejected,
            dict(outcome.scores),
            tuple(pool.comparisons),
            self.excluded | pool.reasons,
            self.judge_calls,
            unreadable + len(pool.reasons),
            judge.name,
            judge.family,
            self.options,
        )

    def _sample(self, *indices: int, reading: int = 0) -> Sample:
        example = self.example
        candidates = tuple(example.candidates[i] for i in indices)
        name = f"{example.id} {'-'.join(map(str, indices))}" + (f" #{reading}" if reading else "")
        return Sample(
            example.task, example.prompt, candidates, example.context, example.criteria, name
        )
