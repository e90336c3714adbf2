"""Figures of the answers to comparisons in both orders, by hand."""

import pytest

from unified_reward.bench.answer_exam import agree, answer_figures
from unified_reward.pairs.judge_answers import PairAnswer


def pair(name, label, given, swapped, *, exact=True, n_tokens=(10, 20)):
    mirrored = {"first": "second", "tie": "tie", "second": "first"}
    return (
        PairAnswer(name, False, label, "", given, exact, n_tokens[0]),
        PairAnswer(name, True, mirrored[label], "", swapped, exact, n_tokens[1]),
    )


PAIRS = [
    pair("a", "first", "first", "second"),  # right twice, and the same candidate
    pair("b", "first", "first", "first"),  # right once: the first place wins
    pair("c", "tie", "tie", "tie"),  # right twice
    pair("d", "second", "tie", None, exact=False, n_tokens=(30, 60)),  # wrong, and unreadable
]


def test_the_figures_of_answers():
    figures = answer_figures(PAIRS)
    values = {name: figure["value"] for name, figure in figures.items()}
    assert values == {
        "accuracy": 5 / 8,
        "exact": 6 / 8,
        "readable": 7 / 8,
        "ties": 3 / 8,
        "consistency": 2 / 4,
        "tokens": pytest.approx((3 * 30 + 90) / 8),
    }
    for name, figure in figures.items():
        low, high = figure["ci95"]
        assert low <= figure["value"] <= high
        assert figure["n"] == (4 if name == "consistency" else 8)


def test_unreadable_answers_do_not_agree():
    assert not agree(*pair("a", "first", None, None))


def test_there_are_no_figures_of_no_answers():
    figures = answer_figures([])
    assert figures["accuracy"]["value"] is None
    assert figures["tokens"] == {"value": None, "ci95": [None, None], "n": 0}
