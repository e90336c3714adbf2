"""One architecture, measured in all ways by turns."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.real_shapes_parts.bound import Rates, Timed
from benchmarks.real_shapes_parts.models import ARCHITECTURES, REAL, SEED, Size, build_judge
from benchmarks.real_shapes_parts.questions import (
    LONG,
    SHORT,
    TASKS,
    Text,
    in_both_orders,
    rank_and_sift,
    tokenizer_texts,
)
from benchmarks.real_shapes_parts.tokens import Distinct, Row, distinct, plain, served
from benchmarks.real_shapes_parts.watch import Watch
from benchmarks.real_shapes_parts.ways import Plain
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Example, Sample, Task
from unified_reward.judges.card import build_request
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.pairs.make import make_pairs
from unified_reward.prompts import template


_NEAR_TIE = 1e-4
"""Lead of the most probable choice, in log-probability, below which verdicts are not compared."""
_SMALL_SIDE = 56


@dataclass(frozen=True)
class Plan:
    """Shapes and questions of a run."""

    architectures: Sequence[str] = ARCHITECTURES[:1]
    tasks: Sequence[Task] = TASKS
    sizes: Sequence[int] = (10,)
    """Numbers of candidates."""
    lengths: Sequence[int] = (1, 8)
    """Tokens of the batch's answers."""
    loop_lengths: Sequence[int] = (1, 8, 200)
    """Tokens of the loop's answers."""
    sampled: int = 1
    """Questions of each form that the loop is measured on."""
    prompts: Mapping[Task, int] = field(default_factory=lambda: dict.fromkeys(TASKS, 1))
    """Prompts by task, of which the sums are compared."""
    small: Mapping[Task, int] = field(
        default_factory=lambda: dict(zip(TASKS, (22, 2, 22, 2), strict=True))
    )
    """Prompts with small pictures by task, of which only the verdicts are compared."""
    pairs: Sequence[Task] = ()
    """Tasks of which pairs are made too."""
    side: int = 512
    """Height and width of pictures and frames in pixels."""
    text: Text = LONG
    size: Size = REAL
    passes: Sequence[tuple[int, int]] = ((2, 456), (1, 3072))
    """Rows and tokens of the passes that the bound is made of."""


class Ours(NamedTuple):
    """Questions that the judge was asked."""

    seconds: float
    logprobs: list[tuple[float, ...]]
    """Log-probability of each choice of each question, comparisons in both orders."""
    stages: dict[str, float]
    counts: dict[str, int]


def ask(judge: GenerativeJudge, samples: Sequence[Sample]) -> Ours:
    """Do what `GenerativeJudge.ask` does, and keep the probabilities."""
    watch = Watch(judge.model)
    started = time.process_time()
    with watch.at("rest"):
        replies = judge.query(samples, orders=2)
        judge.decode(samples, replies)
    seconds = time.process_time() - started
    watch.close()
    answers = [one for each in replies if isinstance(each, Sequence) for one in each]
    stages = {**watch.seconds, "threads": seconds - sum(watch.seconds.values())}
    return Ours(seconds, [_logprobs(one) for one in answers], stages, {**watch.counts})


def _logprobs(answer: Any) -> tuple[float, ...]:
    if not isinstance(answer, Answer) or answer.choice_logprobs is None:
        raise ValueError(f"no probabilities: {answer}")
    return answer.choice_logprobs


class Equality:
    """Verdicts of ours and of a plain way on the same questions."""

    def __init__(self) -> None:
        self.equal = self.compared = self.near_ties = 0
        self.largest_difference = 0.0
        """Largest difference of two log-probabilities, less what all choices share."""
        self.verdicts: dict[str, list[int]] = {}
        """Number of plain verdicts by task and form and choice."""

    def add(
        self,
        questions: Sequence[Sample],
        ours: Sequence[tuple[float, ...]],
        plain: Sequence[tuple[float, ...]],
    ) -> None:
        """Compare the most probable choices of each question."""
        for question, found, wanted in zip(questions, ours, plain, strict=True):
            leads = sorted(wanted, reverse=True)
            choice = wanted.index(leads[0])
            name = f"{question.task.value}, {question.form}"
            self.verdicts.setdefault(name, [0] * len(wanted))[choice] += 1
            far = max(
                abs((f - found[0]) - (w - wanted[0])) for f, w in zip(found, wanted, strict=True)
            )
            self.largest_difference = max(self.largest_difference, far)
            if leads[0] - leads[1] < _NEAR_TIE:
                self.near_ties += 1
                continue
            self.compared += 1
            self.equal += found.index(max(found)) == choice


def joined(parts: Iterable[Equality]) -> dict[str, Any]:
    """Counts of several comparisons together, as JSON."""
    total = Equality()
    for part in parts:
        total.equal += part.equal
        total.compared += part.compared
        total.near_ties += part.near_ties
        total.largest_difference = max(total.largest_difference, part.largest_difference)
        for name, counts in part.verdicts.items():
            before = total.verdicts.get(name, [0] * len(counts))
            total.verdicts[name] = [a + b for a, b in zip(before, counts, strict=True)]
    return {**vars(total), "share": total.equal / max(total.compared, 1)}


class Run:
    """One architecture, measured by a plan."""

    def __init__(self, architecture: str, plan: Plan, folder: Path) -> None:
        self.architecture = architecture
        self.full_shape, self.small = Equality(), Equality()
        self._plan, self._folder = plan, folder
        self._judge = build_judge(architecture, tokenizer_texts(), plan.size)
        self._plain = Plain(self._judge)
        clip = self._samples(Task.VIDEO_UNDERSTANDING, 2, 0)[0]
        frames = build_request(clip, self._judge.card, {}).images
        self._rates = Rates(self._judge.model, frames, plan.passes)
        self._cells: list[tuple[dict[str, Any], Distinct, list[Timed]]] = []

    def _samples(self, task: Task, n: int, seed: int, *, small: bool = False) -> list[Sample]:
        side, text = (_SMALL_SIDE, SHORT) if small else (self._plan.side, self._plan.text)
        return rank_and_sift(task, n, self._folder, side=side, text=text, seed=SEED + seed)

    def warm_up(self) -> None:
        """Ask a little in every way."""
        samples = self._samples(Task.IMAGE_GENERATION, 2, 999, small=True)
        self._plain.loop(samples[:1], (1,))
        self._plain.batch(samples[:2], (1,))
        ask(self._judge, samples)

    def measure(self, task: Task, n: int) -> None:
        """Ask about prompts of a task with n candidates in every way, by turns."""
        plan = self._plan
        loop, batch = Counter[int](), Counter[int]()
        stages, counts = Counter[str](), Counter[str]()
        questions: list[Sample] = []
        rows: list[list[Row]] = []
        timed = [self._rates.time()]
        for seed in range(plan.prompts[task]):
            samples = self._samples(task, n, seed)
            questions = [*in_both_orders(samples)]
            ours = ask(self._judge, samples)
            timed.append(self._rates.time())
            by_batch = self._plain.batch(questions, plan.lengths)
            self.full_shape.add(questions, ours.logprobs, by_batch.logprobs)
            loop.update(self._loop(questions, ours.logprobs))
            batch.update(by_batch.seconds)
            stages.update(ours.stages)
            counts.update(ours.counts)
            rows.append(by_batch.rows)
        cell = {
            "architecture": self.architecture,
            "task": task.value,
            "n": n,
            "prompts": plan.prompts[task],
            "questions": sum(map(len, rows)),
            "seconds": {
                "loop": {str(n): seconds for n, seconds in loop.items()},
                "batch": {str(n): seconds for n, seconds in batch.items()},
                "ours": sum(stages.values()),
            },
            "stages": {**stages},
            "counts": {**counts},
            "tokens": {
                name: _total(map(count, rows))._asdict()
                for name, count in (("plain", plain), ("distinct", distinct), ("served", served))
            }
            | {"choices": plan.prompts[task] * sum(map(self._n_choice_tokens, questions))},
        }
        self._cells.append((cell, _total(map(distinct, rows)), timed))
        _report(f"{self.architecture} {task.value} N={n}: {cell['seconds']}")

    def _loop(
        self, questions: Sequence[Sample], ours: Sequence[tuple[float, ...]]
    ) -> dict[int, float]:
        """Seconds of the loop for all questions, scaled from those of some of each form."""
        seconds: Counter[int] = Counter()
        for form in ("score", "compare"):
            places = [i for i, question in enumerate(questions) if question.form == form]
            sample = places[: self._plan.sampled]
            asked = self._plain.loop([questions[i] for i in sample], self._plan.loop_lengths)
            alone = [each.logprobs[0] for each in asked]
            self.full_shape.add([questions[i] for i in sample], [ours[i] for i in sample], alone)
            for each in asked:
                shares = {n: s * len(places) / len(sample) for n, s in each.seconds.items()}
                seconds.update(shares)
        return seconds

    def _n_choice_tokens(self, question: Sample) -> int:
        """Tokens of the choices that are computed beside the prompt."""
        choices = template(self._judge.family, question.task, question.form).choices
        _, tails = self._judge.model.chat.split_choices("", choices)
        return sum(len(tail) - 1 for tail in tails)

    def compare_small(self) -> None:
        """Compare verdicts on small pictures with those of the batch."""
        for task, prompts in self._plan.small.items():
            for seed in range(prompts):
                samples = self._samples(task, 10, seed, small=True)
                questions = [*in_both_orders(samples)]
                ours = ask(self._judge, samples)
                self.small.add(
                    questions, ours.logprobs, self._plain.batch(questions, (1,)).logprobs
                )
            _report(f"{self.architecture} {task.value}, small pictures: {vars(self.small)}")

    def make_pairs(self, task: Task) -> dict[str, Any]:
        """Time rank+sift as pairs are made, scores after comparisons, beside a single ask."""
        samples = self._samples(task, 10, 0)
        scored = [sample for sample in samples if sample.form == "score"]
        candidates = tuple(sample.candidates[0] for sample in scored)
        one = scored[0]
        example = Example(task, one.prompt, candidates, one.context, one.criteria, "prompt")
        started = time.process_time()
        (result,) = make_pairs([example], self._judge)
        spent = time.process_time() - started
        if result.judge_calls != 2 * len(candidates):
            raise ValueError(f"rank+sift asked {result.judge_calls} questions")
        seconds = {"pairs": spent, "ask": ask(self._judge, samples).seconds}
        _report(f"{self.architecture} {task.value}, pairs: {seconds}")
        return {"architecture": self.architecture, "task": task.value, "n": 10, "seconds": seconds}

    def cells(self) -> list[dict[str, Any]]:
        """What was measured, with the bound by the rates of the whole run."""
        for cell, count, timed in self._cells:
            images, tokens = self._rates.seconds(count, timed)
            cell["seconds"]["bound"] = {"images": images, "tokens": tokens}
        return [cell for cell, _, _ in self._cells]

    def describe(self) -> dict[str, Any]:
        """Facts about the model and the rates, as JSON."""
        model = self._judge.model.model
        token, pair = self._rates.coefficients()
        return {
            "architecture": self.architecture,
            "parameters": _n_parameters(model),
            "vision_parameters": _n_parameters(model.model.visual),
            "ways": self._judge.model.describe()["ways"],
            "token_s": token,
            "pair_s": pair,
            "image_s": self._rates.image_s(),
            "image_tokens": self._plan.size.image_tokens,
        }


def _n_parameters(module: Any) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _total(counts: Iterable[Distinct]) -> Distinct:
    return Distinct(*map(sum, zip(*counts, strict=True)))


def _report(line: str) -> None:
    print(f"{time.process_time():.0f} s: {line}", file=sys.stderr, flush=True)
