"""Run an evaluation: put the outputs of models to judges, and report which model is better.

Verdicts are rows of a journal, one for each reward, so that a run that was stopped goes on where it
was, and one that gets more models or prompts asks only about those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.progress import progress_bar
from unified_reward.evaluate.answers import RewardAnswers, read_answers
from unified_reward.evaluate.inputs import write_outputs
from unified_reward.evaluate.outputs import ModelOutputs, RewardValues
from unified_reward.evaluate.questions import (
    By,
    Question,
    comparisons_of,
    forms_to_ask,
    scores_of,
)
from unified_reward.io.atomic import write_json
from unified_reward.io.fingerprints import text_fingerprint
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.rows import Row
from unified_reward.io.run_config import Origin
from unified_reward.io.verdict_rows import read_verdict_rows
from unified_reward.io.vote_rows import Vote
from unified_reward.judges import bulk
from unified_reward.judges.files import judge_files


REPORT = "report.json"
Judges = Mapping[str, BaseJudge | Callable[[], BaseJudge]]


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate_models`; see there."""

    baseline: str
    by: By = "both"
    orders: Literal[1, 2] = 2
    readings: int = 1
    budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("both", "score", "pairs"):
            raise ConfigError(f"by is both, score or pairs, not {self.by!r}")
        if self.readings < 1 or (self.budget is not None and self.budget < 1):
            raise ConfigError(
                f"readings and budget are >= 1, not {self.readings} and {self.budget}"
            )
        if self.budget is not None and self.by == "score":
            raise ConfigError("a budget is of comparisons, and by='score' asks none")


class Result(NamedTuple):
    """Result of an evaluation."""

    report: dict[str, Any]
    """Figures and counts, the "evaluate JSON" of the documentation."""
    rewards: list[RewardValues]
    """Values and comparisons that the figures are of, by reward."""


@dataclass(frozen=True)
class _Work:
    """A verdict row for every question, from a judge that is open."""

    judge: BaseJudge
    orders: Literal[1, 2]

    @property
    def origin(self) -> Origin:
        """Settings and files of the judge, and the question."""
        config: dict[str, Any] = {"judge": self.judge.name, "family": self.judge.family}
        files: Callable[[], Mapping[str, str]] = dict
        if self.judge.origin:
            reference, options = self.judge.origin
            config |= {"judge": reference, **options.settings()}
            files = partial(judge_files, reference, options)
        reads = ("task", "prompt", "candidates", "context", "criteria")
        return Origin(config | {"orders": self.orders}, files, reads)

    def open(self) -> bulk.Worker:
        """Return the worker of the open judge."""
        return partial(bulk.judge_rows, judge=self.judge, orders=self.orders)
