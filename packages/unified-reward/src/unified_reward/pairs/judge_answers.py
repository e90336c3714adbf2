"""Answers of a local judge to labelled comparisons, in both orders, sampled and read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from unified_reward import policies, prompts
from unified_reward.backends.hf_vlm import VLM
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Preferred, Winner
from unified_reward.core.words import count_of
from unified_reward.data.example_file import ExampleFile, mirrored
from unified_reward.judges.card import build_request
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.registry import open_judge
from unified_reward.policies.vlm import GumbelNoise


_WINDOW = 256
"""Questions whose media are in memory at a time."""


class PairAnswer(NamedTuple):
    """An answer to a comparison that was asked in one order."""

    pair: str
    """Id of the comparison, the same in both orders."""
    is_swapped: bool
    label: Winner
    """Right outcome in the order that was asked; a tie is one."""
    text: str
    winner: Winner | None
    """Outcome that the text states, by the family's own parser; None if it cannot be read."""
    is_exact: bool
    """See `Template.is_exact`."""
    n_tokens: int
    """Length with the end token."""

    @property
    def is_right(self) -> bool:
        """True if the answer states the right outcome."""
        return self.winner == self.label


class Question(NamedTuple):
    """A labelled comparison in the order in which it is asked."""

    example: Example
    is_swapped: bool
    label: Winner

    def read(self, text: str, n_tokens: int, family: str) -> PairAnswer:
        """Read an answer to it."""
        template = prompts.template(family, self.example.task, "compare")
        verdict = template.parse(text)
        winner = verdict.winner if isinstance(verdict, Preferred) else None
        name, is_swapped, label = self.example.id, self.is_swapped, self.label
        return PairAnswer(name, is_swapped, label, text, winner, template.is_exact(text), n_tokens)


def both_orders(example: Example) -> tuple[Question, Question]:
    """The comparison as it is, and with its candidates exchanged.

    Raises:
        DataError: It is not two candidates with a winner or a tie.
    """
    swapped = mirrored(example)
    if example.target.winner is None or swapped.target.winner is None:
        raise DataError(f"record {example.id!r} has two candidates but no winner")
    return (
        Question(example, False, example.target.winner),  # noqa: FBT003  a field
        Question(swapped, True, swapped.target.winner),  # noqa: FBT003
    )


def read_comparisons(path: Path, *, seed: int = 0) -> list[Example]:
    """Labelled comparisons of a file, in a seeded order.

    Raises:
        DataError: A row is none: it has no winner, or not two candidates.
    """
    file = ExampleFile(path, seed=seed)
    examples = [file[i] for i in range(len(file))]
    wrong = [one.id for one in examples if len(one.candidates) != 2 or not one.target.winner]
    if wrong:
        raise DataError(
            f"{path} has {count_of(len(wrong), 'row')} without a winner or a tie of two answers: "
            f"{', '.join(map(repr, wrong[:3]))}"
        )
    return examples


def open_local_judge(folder: str, batch_size: int | None = None) -> tuple[GenerativeJudge, VLM]:
    """Open a judge on a local checkpoint, and its model; ``batch_size`` as of `open_judge`.

    Raises:
        ConfigError: It is a judge of another kind.
    """
    judge = open_judge(folder, batch_size=batch_size)
    if not isinstance(judge, GenerativeJudge) or not isinstance(judge.model, VLM):
        raise ConfigError(f"{folder} is no local judge that answers in text")
    return judge, judge.model


def ask_questions(
    judge: GenerativeJudge,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    n: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[list[PairAnswer] | Failed]:
    """Answers to each question by the requests of `open_judge`; a bad question fails alone.

    Args:
        judge: A judge of `open_local_judge`.
        questions: The questions.
        max_new_tokens: Longest answer, in tokens.
        n: Answers to each.
        temperature: Divides the logits; 0 is greedy, so that all answers to a question are equal.
        seed: An answer depends on it, on its question and on its place among the n.
    """
    vlm: VLM = judge.model
    for start in range(0, len(questions), _WINDOW):
        window = questions[start : start + _WINDOW]
        plans = [_request(question, judge) for question in window]
        copies: list[Request] = []
        seeds: dict[int, int] = {}
        for question, plan in zip(window, plans, strict=True):
            if isinstance(plan, Request):
                made = [replace(plan) for _ in range(n)]
                name = f"{question.example.id} {question.is_swapped}"
                seeds |= zip(map(id, made), policies.seeds(name, n, seed), strict=True)
                copies += made
        generate = partial(_generate, vlm, seeds, temperature, max_new_tokens)
        texts = iter(vlm.map_batches(copies, generate))
        for question, plan in zip(window, plans, strict=True):
            replies = [plan] if isinstance(plan, Failed) else [next(texts) for _ in range(n)]
            yield _read(question, replies, judge)


def _request(question: Question, judge: GenerativeJudge) -> Request | Failed:
    try:
        return build_request(question.example.sample, judge.card, {})
    except (MediaError, ConfigError, DataError) as error:
        return Failed.from_error(error)


def _generate(
    vlm: VLM, seeds: dict[int, int], temperature: float, limit: int, requests: list[Request]
) -> list[str]:
    noise = [GumbelNoise(temperature, [seeds[id(one)] for one in requests])] if temperature else []
    return vlm.chat.decode(vlm.generate_tokens(vlm.inputs(requests), limit, *noise).tolist())


def _read(
    question: Question, replies: Sequence[str | Failed], judge: GenerativeJudge
) -> list[PairAnswer] | Failed:
    chat, answers = judge.model.chat, list[PairAnswer]()
    for reply in replies:
        if isinstance(reply, Failed):
            return reply
        answers.append(question.read(reply, len(chat.closed(reply)), judge.card.family))
    return answers
