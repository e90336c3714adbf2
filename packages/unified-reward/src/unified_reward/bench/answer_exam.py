"""Exam of a judge that reasons: its single answers to comparisons, each asked in both orders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unified_reward.bench.metrics import mean_interval, mean_metric
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.data.example_file import MIRRORED
from unified_reward.io.atomic import write_bytes
from unified_reward.pairs.judge_answers import (
    PairAnswer,
    ask_questions,
    both_orders,
    open_local_judge,
)


def examine_answers(
    folder: str,
    examples: Sequence[Example],
    answers: Path,
    *,
    max_new_tokens: int,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Ask a judge every comparison in both orders, greedily; see `answer_figures`.

    Args:
        folder: The judge.
        examples: Labelled comparisons.
        answers: File for the answers, one a row.
        max_new_tokens: Longest answer.
        batch_size: Questions in one pass; see `open_judge`.
    """
    judge, _ = open_local_judge(folder, batch_size)
    questions = [question for example in examples for question in both_orders(example)]
    replies = [*ask_questions(judge, questions, max_new_tokens=max_new_tokens)]
    pairs = [
        (given[0], swapped[0])
        for given, swapped in zip(replies[::2], replies[1::2], strict=True)
        if not isinstance(given, Failed) and not isinstance(swapped, Failed)
    ]
    rows = [answer._asdict() for pair in pairs for answer in pair]
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_bytes(answers, text.encode(errors="replace"))
    return {**answer_figures(pairs), "n_failed": len(examples) - len(pairs)}


def agree(given: PairAnswer, swapped: PairAnswer) -> bool:
    """True if the answers to both orders can be read and state the same outcome."""
    return given.winner is not None and MIRRORED[given.winner] == swapped.winner


def answer_figures(pairs: Sequence[tuple[PairAnswer, PairAnswer]]) -> dict[str, Any]:
    """Figures of the answers to comparisons in both orders, each with n and a 95 % interval.

    An answer that cannot be read is wrong and agrees with none. Intervals are bootstraps over
    comparisons, Wilson's for the consistency.

    Returns:
        ``accuracy``, the share of answers with exactly the labelled outcome, of which a tie is one;
        ``consistency``, the share of comparisons whose two answers prefer the same candidate;
        ``exact``, the share of answers in exactly the family's form; ``readable``, the share that
        can be read; ``ties``, the share that states a tie; ``tokens``, the mean length.
    """
    answers = [answer for pair in pairs for answer in pair]
    clusters = [answer.pair for answer in answers]
    shares = {
        "accuracy": [float(answer.is_right) for answer in answers],
        "exact": [float(answer.is_exact) for answer in answers],
        "readable": [float(answer.winner is not None) for answer in answers],
        "ties": [float(answer.winner == "tie") for answer in answers],
    }
    agreeing = [float(agree(given, swapped)) for given, swapped in pairs]
    lengths = [float(answer.n_tokens) for answer in answers]
    return {
        **{name: mean_metric(points, clusters).row() for name, points in shares.items()},
        "consistency": mean_metric(agreeing, [given.pair for given, _ in pairs]).row(),
        "tokens": {
            "value": sum(lengths) / len(lengths) if lengths else None,
            "ci95": [*mean_interval(lengths, clusters)] if lengths else [None, None],
            "n": len(lengths),
        },
    }
