"""Run an evaluation: put the outputs of models to judges, and report which model is better.

Verdicts are rows of a journal, one for each reward, so that a run that was stopped goes on where it
was, and one that gets more models or prompts asks only about those.
"""

from __future__ import annotations

import re
from collections import deque
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
from unified_reward.evaluate.answers import RewardAnswers, read_answers, rows_of
from unified_reward.evaluate.budget import budget_report, next_questions, question_orders
from unified_reward.evaluate.output_rows import write_outputs
from unified_reward.evaluate.outputs import Comparison, ModelOutputs, RewardValues, model_pairs
from unified_reward.evaluate.page import write_page
from unified_reward.evaluate.questions import By, Question, comparisons_of, forms_to_ask, scores_of
from unified_reward.evaluate.report import Reward, build_report
from unified_reward.io.atomic import write_json
from unified_reward.io.fingerprints import text_fingerprint
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.rows import Row
from unified_reward.io.run_config import Origin
from unified_reward.io.text import read_json
from unified_reward.io.verdict_rows import read_verdict_rows
from unified_reward.io.vote_rows import Vote
from unified_reward.judges import bulk
from unified_reward.judges.files import judge_files


REPORT, PAGE = "report.json", "page.html"
Questions = Callable[[], Iterable[Question]]
"""Questions, as often as they are wanted, since there may be millions."""
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
        if self.budget is not None and self.budget < self.orders:
            raise ConfigError("a comparison in both orders is two calls, and the budget is 1")


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


def evaluate_models(  # noqa: PLR0913  every one is an option of the command too
    outputs: ModelOutputs,
    judges: Judges,
    *,
    baseline: str | None = None,
    by: By = "both",
    orders: Literal[1, 2] = 2,
    readings: int = 1,
    budget: int | None = None,
    votes: Sequence[Vote] = (),
    out: str | Path | None = None,
    retry_failed: bool = False,
    seed: int = 0,
) -> Result:
    """Find out which of several models is better, by how much, and for which prompts.

    Every prompt has the same weight, and every interval is over prompts.

    Args:
        outputs: Outputs of the models, as from `read_models`.
        judges: Judge of each reward by its name, or a function that opens it in its turn. A judge
            that scores aspects and nothing else gives a reward ``NAME.ASPECT`` for each.
        baseline: Model that the others are compared with; default the first.
        by: ``score``, ``pairs`` (comparisons), or ``both``, see `questions.forms_to_ask`.
        orders: 2 asks every comparison in both orders and averages, 1 asks once.
        readings: Times a score is asked and averaged, >= 1, for a judge that samples its answers.
        budget: Most calls for comparisons of each judge, where they tell most; None for all.
        votes: Votes of people on pairs of the models, which calibrate the first judge's win rates.
        out: Folder of verdicts, ``report.json`` and ``page.html`` (extra ``[report]``); a run
            there asks only what is not answered.
        retry_failed: Ask the questions again that failed in an earlier run.
        seed: Random seed of the order of prompts within a budget.

    Returns:
        The report, and the values of each reward.

    Raises:
        ConfigError: No models or judges, no such baseline, or ``out`` is of another run.
        DataError: ``out`` cannot be written; verdicts written before stay.

    Example:
        >>> from unified_reward.core.samples import Example, Image, Task
        >>> from unified_reward.judges.registry import open_reference
        >>> prompts = {"p": Example(Task.IMAGE_GENERATION, "a cat", id="p")}
        >>> outputs = {model: {"p": (Image(f"{model}.png"),)} for model in "ab"}
        >>> judge = open_reference("scripted:tie", opens_media=False)
        >>> result = evaluate_models(ModelOutputs(prompts, outputs), {"tie": judge})
        >>> result.report["paired"]["b"]["tie"]["win_rate"]
        0.5
    """
    base = _baseline(outputs, judges, baseline)
    options = EvaluateOptions(base, by, orders, readings, budget, seed)
    with _folder(out) as folder:
        rewards: dict[str, Reward] = {}
        for name, judge in judges.items():
            rewards |= _judge(name, judge, outputs, options, folder, retry_failed=retry_failed)
        report = build_report(outputs, rewards, options.baseline, votes)
        if out:
            _write(report, outputs, folder)
    return Result(report, [reward.answers.values for reward in rewards.values()])


def _write(report: Mapping[str, Any], outputs: ModelOutputs, folder: Path) -> None:
    write_outputs(outputs, folder)
    write_json(folder / REPORT, report)
    write_page(report, outputs, folder / PAGE)


def _baseline(outputs: ModelOutputs, judges: Judges, name: str | None) -> str:
    if not outputs.outputs or not outputs.prompts:
        raise ConfigError("there are no outputs of models to evaluate")
    if not judges:
        raise ConfigError("no judge is named, and there is no default")
    if name is not None and name not in outputs.outputs:
        models = ", ".join(outputs.models)
        raise ConfigError(f"there is no model {name!r} to be the baseline; there are {models}")
    return name or outputs.models[0]


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    if out:
        path = Path(out) / REPORT
        if path.exists() and not is_report(read_json(path)):
            raise ConfigError(f"{path} is not of an evaluation; give another folder")
        yield Path(out)
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def is_report(value: Any) -> bool:
    """True for the content of the ``report.json`` of an evaluation."""
    return isinstance(value, dict) and {"models", "judges", "baseline"} <= value.keys()


def verdicts_path(folder: Path, reward: str) -> Path:
    """Path of the verdicts of a reward, whose name need not be that of a file.

    >>> verdicts_path(Path("out"), "hps"), verdicts_path(Path("out"), "org/name").name
    (PosixPath('out/verdicts/hps.jsonl'), 'org-name-7e624f06.jsonl')
    """
    name = re.sub(r"[^\w.-]+", "-", reward)[:80]
    if name != reward or name.startswith("."):
        name = f"{name}-{text_fingerprint(reward)[:8]}"
    return folder / "verdicts" / f"{name}.jsonl"


def _judge(
    name: str,
    judge: BaseJudge | Callable[[], BaseJudge],
    outputs: ModelOutputs,
    options: EvaluateOptions,
    folder: Path,
    *,
    retry_failed: bool,
) -> dict[str, Reward]:
    """Put all questions to a judge that the journal lacks, and read its answers.

    A judge that scores aspects and nothing else gives a reward for each, called ``NAME.ASPECT``.
    """
    opened = judge if isinstance(judge, BaseJudge) else judge()
    orders = 1 if opened.order_free else options.orders
    forms = forms_to_ask(opened, outputs, options.by)
    scores = partial(scores_of, outputs, forms, options.readings)
    comparisons = partial(comparisons_of, outputs, forms)
    n_scores, n_comparisons = (sum(1 for _ in each()) for each in (scores, comparisons))
    if not n_scores and not n_comparisons:
        raise ConfigError(f"{name}: nothing to compare, as no prompt has outputs of two models")
    affordable = n_comparisons
    if options.budget is not None:
        affordable = min(affordable, options.budget // orders)
    path = verdicts_path(folder, name)
    with (
        open_journal(path) as journal,
        progress_bar(name, n_scores + affordable) as advance,
    ):
        asking = _Asking(_Work(opened, options.orders), outputs, journal, advance)
        asking.resume(lambda: chain(scores(), comparisons()), retry_failed=retry_failed)
        deque(asking.ask(scores), maxlen=0)
        chosen = None
        if affordable < n_comparisons:
            chosen = _ask_adaptively(asking, [*comparisons()], affordable, options.seed)
        else:
            deque(asking.ask(comparisons), maxlen=0)

    def questions() -> Iterator[Question]:
        return chain(scores(), comparisons() if chosen is None else chosen)

    def read(reward: str, aspect: str = "") -> RewardAnswers:
        rows = rows_of(path, questions())
        return read_answers(reward, rows, outputs, orders=orders, aspect=aspect)

    answers = read(name)
    budget = None
    if options.budget is not None and n_comparisons:
        budget = _budget(answers, outputs, n_comparisons, orders)
    reference = opened.origin[0] if opened.origin else opened.name
    by_aspect = {f"{name}.{each}": read(f"{name}.{each}", each) for each in answers.aspects}
    return {
        each: Reward(reference, opened.name, opened.family, own, budget)
        for each, own in (by_aspect or {name: answers}).items()
    }


class _Asking:
    """Questions to one judge, each asked once."""

    def __init__(
        self,
        work: _Work,
        outputs: ModelOutputs,
        journal: Journal,
        advance: Callable[[int], None],
    ) -> None:
        self._work = work
        self.outputs = outputs
        self._journal = journal
        self._advance = advance

    def resume(self, questions: Questions, *, retry_failed: bool) -> None:
        """Check that earlier answers are to these questions."""
        read = partial(self._read, questions)
        self._work.origin.resume(self._journal, read, retry_failed=retry_failed)

    def ask(self, questions: Questions) -> Iterator[dict[str, Any]]:
        """Ask what was not asked before; iterates over the verdict rows made."""
        self._advance(sum(question.id in self._journal.done for question in questions()))

        def missing() -> Iterator[Question]:
            return (each for each in questions() if each.id not in self._journal.done)

        read = partial(self._read, missing)
        for chunk in bulk.run(self._work, read, self._journal, size=bulk.CHUNK):
            self._advance(len(chunk.ids))
            yield from chunk.rows

    def earlier_rows(self) -> dict[str, dict[str, Any]]:
        """Verdict rows by id, from earlier runs and this one."""
        path = self._journal.path
        return {row["id"]: row for row in read_verdict_rows(path)} if self._journal.done else {}

    def _read(self, questions: Questions) -> Iterator[Row]:
        return (question.row(self.outputs) for question in questions())


def _ask_adaptively(
    asking: _Asking, comparisons: Sequence[Question], n: int, seed: int
) -> list[Question]:
    """Ask n of the comparisons, in rounds, each where the answers so far leave most open."""
    questions = {question.id: question for question in comparisons}
    by_pair: dict[tuple[str, str], list[str]] = {}
    for question in comparisons:
        a, b = question.models
        by_pair.setdefault((a, b), []).append(question.id)
    left = question_orders(by_pair, seed)
    models, size = asking.outputs.models, max(16, 4 * len(by_pair))
    rows = asking.earlier_rows()
    done: list[Question] = []
    known: list[Comparison] = []
    while len(done) < n:
        chosen = next_questions(models, known, left, min(size, n - len(done)))
        batch = [questions[name] for _, name in chosen]
        rows |= {row["id"]: row for row in asking.ask(partial(iter, batch))}
        new = (rows[question.id] for question in batch)
        known += read_answers("", new, asking.outputs, orders=1).values.comparisons
        done += batch
        names = {name for _, name in chosen}
        left = {pair: [name for name in ids if name not in names] for pair, ids in left.items()}
    return done


def _budget(
    answers: RewardAnswers, outputs: ModelOutputs, n_comparisons: int, orders: int
) -> dict[str, Any]:
    """Calls for comparisons, those saved, and the interval that was reached."""
    pairs = model_pairs(outputs.models)
    made = {pair: answers.numbers.get(pair, 0) for pair in pairs}
    calls, full_calls = orders * sum(made.values()), orders * n_comparisons
    return {
        "calls": calls,
        "full_calls": full_calls,
        "saved": full_calls - calls,
        **budget_report(outputs.models, answers.values.comparisons),
        "pairs": {"|".join(pair): made[pair] for pair in pairs},
    }
