"""A judge that learns to reason from whether its own verdicts are right.

The recipe of UnifiedReward-Think (arXiv:2505.03318): a cold start on given reasoning, rejection
sampling on what it then gets right, and GRPO on what it gets wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from accelerate import PartialState

from unified_reward import prompts
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example, FrameRule
from unified_reward.core.verdicts import Failed
from unified_reward.io.atomic import write_bytes
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.rows import example_row
from unified_reward.io.text import read_json_lines
from unified_reward.judges.card import Card, build_request
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.pairs.judge_answers import (
    PairAnswer,
    Question,
    ask_questions,
    both_orders,
    open_local_judge,
    read_comparisons,
)
from unified_reward.train.grpo_vlm import VLMGRPO, Rewards, SampledAnswer, learn_from_rewards
from unified_reward.train.judge import JudgeTraining
from unified_reward.train.optim import OptimConfig
from unified_reward.train.precision import load_dtype
from unified_reward.train.verdict_rewards import Terms, VerdictReward, score_answers


_WINDOW = 128
"""Comparisons between two writes of the journal."""


@dataclass(frozen=True)
class Sifting:
    """Sampling of a judge's own answers, of which the right ones are learned."""

    answers: int = 1
    """Answers to each order of a comparison, > 0."""
    temperature: float = 1.0
    """Divides the logits, >= 0; 0 is greedy."""
    seed: int = 0
    batch_size: int | None = None
    """Questions in one pass, in sifting and exam; None for the default of `open_judge`."""

    def __post_init__(self) -> None:
        if self.answers < 1 or not self.temperature >= 0:
            raise ConfigError(
                f"answers must be at least 1 and the temperature >= 0, not {self.answers} and "
                f"{self.temperature}"
            )


@dataclass(frozen=True)
class ThinkTraining:
    """Options of the three phases; files are JSONL files of comparisons with a winner or a tie."""

    data: str
    """File to answer: what the judge gets right is learned by rejection sampling, the rest by
    GRPO."""
    rejection: OptimConfig
    grpo: VLMGRPO
    cold_start: OptimConfig | None = None
    """None for a base that reasons in the family's form already."""
    chains: str = ""
    """File for the cold start; its targets have a rationale."""
    base: str = ""
    """Judge or vision-language model to start from; empty for the judge that the recipe trains."""
    family: str = "think"
    """Family that reasons in tags."""
    sifting: Sifting = field(default_factory=Sifting)
    reward: VerdictReward = field(default_factory=VerdictReward)
    exam: str = ""
    """File of other comparisons to examine the judge on after each phase; empty for none."""
    frames: int | None = None
    """Frames of a video; None for the family's own number."""
    frame_rule: FrameRule | None = None
    max_pixels: int | None = None
    processes: int = 1
    """Processes the run is launched with."""

    def __post_init__(self) -> None:
        if not prompts.family(self.family).uses_think_tags:
            raise ConfigError(
                f"family {self.family} does not reason in tags; think and unifiedreward-think do"
            )
        if (self.cold_start is None) != (not self.chains):
            raise ConfigError("give both cold_start and chains, or neither")
        if self.reward.cap > self.grpo.max_new_tokens:
            raise ConfigError(
                f"reward.cap is {self.reward.cap}, but no answer is longer than "
                f"grpo.max_new_tokens, {self.grpo.max_new_tokens}"
            )
        replace(self.grpo, block=2)  # raises before the first phase where the last cannot work

    def supervised(self, base: str, data: str | Path, optim: OptimConfig) -> JudgeTraining:
        """Settings of training on answers with their reasoning."""
        return JudgeTraining(
            optim,
            base=base,
            data=str(data),
            family=self.family,
            frames=self.frames,
            frame_rule=self.frame_rule,
            max_pixels=self.max_pixels,
            processes=self.processes,
            dtype=self.grpo.dtype if optim.lora_rank else None,
        )


def sift_answers(folder: str, config: ThinkTraining, out: Path) -> dict[str, Any]:
    """Ask a judge every comparison in both orders, and part them by its answers.

    An answer in exactly the family's form that is right becomes a row of ``kept.jsonl``, in the
    order that was asked, with its reasoning as rationale. A comparison with an answer that is wrong
    or cannot be read is a row of ``wrong.jsonl``. With several answers both can happen.

    Args:
        folder: The judge.
        config: ``data``, ``sifting``, ``family`` and the longest answer of ``grpo``.
        out: Folder of both files, and of ``answers.jsonl``, from which a stopped run resumes.

    Returns:
        ``comparisons``, ``failed`` (that could not be asked), ``answers``, and of these ``right``,
        ``exact``, ``readable`` and their mean length ``tokens``; ``kept`` and ``wrong``, the rows
        of the two files.

    Raises:
        ConfigError: The judge is of another family.
        DataError: A row of the data is no labelled comparison, or no answer is right.
    """
    examples = read_comparisons(Path(config.data))
    judge, _ = open_local_judge(folder, config.sifting.batch_size)
    if judge.card.family != config.family:
        raise ConfigError(
            f"{folder} answers in the form of {judge.card.family}, not of {config.family}; set "
            "family, or give cold_start and chains"
        )
    with open_journal(out / "answers.jsonl") as journal:
        _answer(judge, examples, config, journal)
    rows = {row["id"]: row for _, row in read_json_lines(out / "answers.jsonl")}
    failed = sum(rows[example.id]["status"] == "failed" for example in examples)
    kept: list[Example] = []
    wrong: list[Example] = []
    answers: list[PairAnswer] = []
    for example in examples:
        read = _read(example, rows[example.id]["answers"], config.family)
        answers += [answer for _, answer in read]
        kept += [
            _reasoned(question, answer.text, place)
            for place, (question, answer) in enumerate(read)
            if answer.is_right and answer.is_exact
        ]
        if not all(answer.is_right for _, answer in read):
            wrong.append(example)
    if not kept:
        raise DataError(
            f"no answer of {folder} to {config.data} is right and in the form of {config.family}"
        )
    _write(kept, out / "kept.jsonl")
    _write(wrong, out / "wrong.jsonl")
    counts = {"comparisons": len(examples), "failed": failed, "answers": len(answers)}
    return counts | {
        "right": sum(answer.is_right for answer in answers),
        "exact": sum(answer.is_exact for answer in answers),
        "readable": sum(answer.winner is not None for answer in answers),
        "tokens": fmean(answer.n_tokens for answer in answers),
        "kept": len(kept),
        "wrong": len(wrong),
    }


def _write(examples: Sequence[Example], file: Path) -> None:
    rows = (example_row(example, file.parent) for example in examples)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_bytes(file, text.encode())


def _read(
    example: Example, orders: Sequence[Sequence[tuple[str, int]]], family: str
) -> list[tuple[Question, PairAnswer]]:
    """Answers with their questions, in both orders; none of a comparison that failed."""
    return [
        (question, question.read(text, n_tokens, family))
        for question, answers in zip(both_orders(example), orders, strict=bool(orders))
        for text, n_tokens in answers
    ]


def _answer(
    judge: GenerativeJudge, examples: Sequence[Example], config: ThinkTraining, journal: Journal
) -> None:
    """Append the answers to the comparisons that the journal lacks."""
    missing = [example for example in examples if example.id not in journal.done]
    sifting = config.sifting
    for start in range(0, len(missing), _WINDOW):
        window = missing[start : start + _WINDOW]
        replies = ask_questions(
            judge,
            [question for example in window for question in both_orders(example)],
            max_new_tokens=config.grpo.max_new_tokens,
            n=sifting.answers,
            temperature=sifting.temperature,
            seed=sifting.seed,
        )
        journal.append(
            _journal_row(example.id, [next(replies), next(replies)]) for example in window
        )


def _journal_row(name: str, orders: Sequence[list[PairAnswer] | Failed]) -> dict[str, Any]:
    failed = [answers.reason for answers in orders if isinstance(answers, Failed)]
    texts = [
        [(answer.text, answer.n_tokens) for answer in answers]
        for answers in orders
        if not isinstance(answers, Failed) and not failed
    ]
    status = "failed" if failed else "answered"
    return {"id": name, "status": status, "reason": "; ".join(failed) or None, "answers": texts}


def _reasoned(question: Question, text: str, place: int) -> Example:
    """The comparison in the order that was asked, with the reasoning of an exact answer."""
    example = question.example
    rationale = text.partition("<think>")[2].rpartition("</think>")[0]
    target = replace(example.target, rationale=rationale)
    return replace(example, id=f"{example.id} answer {place}", target=target)


class _Questions:
    """Questions as requests, each opened when it is indexed."""

    def __init__(self, questions: Sequence[Question], card: Card) -> None:
        self.questions, self._card = questions, card

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Request:
        return build_request(self.questions[index].example.sample, self._card, {})

    def name(self, index: int) -> str:
        """Id of the comparison."""
        return self.questions[index].example.id


def learn_from_verdicts(
    folder: str,
    data: Path,
    config: VLMGRPO,
    reward: VerdictReward,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a judge by GRPO from the rewards of its own verdicts, in both orders of each pair.

    Args:
        folder: The judge.
        data: Comparisons with a winner or a tie.
        config: Settings; both orders of a comparison are two prompts of the same step.
        reward: Terms of the reward.
        out: As of `learn_from_rewards`; the new judge is ``out / "policy"``.
        log: Called with the reason for each question that is left out.

    Returns:
        As of `learn_from_rewards`; by step also the mean of each term of the reward, ``readable``
        and ``ties``, shares of the answers that can be read and that state a tie.

    Raises:
        ConfigError: The folder is no judge with a card, or options do not fit.
        DataError: A row is no labelled comparison, or no question can be asked.
        ModelError: The judge cannot be trained.
    """
    card = Card.read(Path(folder))
    if card is None or not prompts.family(card.family).uses_think_tags:
        raise ConfigError(f"{folder} has no card of a family that reasons in tags")
    device = str(PartialState().device)
    dtype = load_dtype(config.dtype, config.optim.lora_rank)
    vlm = load_vlm(folder, device=device, dtype=dtype, max_pixels=card.max_pixels)
    examples = read_comparisons(data, seed=config.optim.seed)
    questions = [question for example in examples for question in both_orders(example)]

    def score(answers: Sequence[SampledAnswer]) -> Rewards:
        read = [questions[one.row].read(one.text, one.n_tokens, card.family) for one in answers]
        terms = score_answers(read, reward)
        columns = zip(Terms._fields, zip(*terms, strict=True), strict=True)
        figures = {name: fmean(column) for name, column in columns}
        figures |= {
            "readable": fmean(one.winner is not None for one in read),
            "ties": fmean(one.winner == "tie" for one in read),
        }
        return Rewards([reward.total(each) for each in terms], figures)

    settings = replace(config, block=2, max_pixels=card.max_pixels)
    requests = cast("Sequence[Request]", _Questions(questions, card))
    report = learn_from_rewards(vlm, requests, score, settings, out, log)
    if PartialState().is_main_process:
        training = {"data": str(data), "steps": config.optim.steps, "seed": config.optim.seed}
        replace(card, base=folder, training=training).write(out / "policy")
    return report
