"""Adaptive pairs: exact small cases, the budget, and what they save."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.evaluate.bradley_terry import fit_bradley_terry
from unified_reward.evaluate.budget import budget_report, next_questions, question_orders
from unified_reward.evaluate.outputs import Comparison, model_pairs


ABC = ["a", "b", "c"]


def questions(models, n):
    return {(a, b): [f"{a}|{b}/{k}/0" for k in range(n)] for a, b in model_pairs(models)}


def compare(pair, question, probability):
    return Comparison(question.split("/")[1], *pair, probability)


def games(pair, n, wins):
    return [compare(pair, f"x/{pair}{k}/0", float(k < wins)) for k in range(n)]


def run(strengths, n, *, size=24, seed=0, adaptive=True):
    """Compare models with wins by Bradley-Terry, batch by batch."""
    rng = np.random.default_rng(seed)
    left = question_orders(questions([*strengths], 400), seed)
    comparisons = []
    while len(comparisons) < n:
        if adaptive:
            batch = next_questions([*strengths], comparisons, left, min(size, n - len(comparisons)))
        else:
            batch = [(pair, left[pair][0]) for pair in left]
        for (a, b), question in batch:
            left[a, b].remove(question)
            p = 1 / (1 + np.exp(strengths[b] - strengths[a]))
            comparisons.append(compare((a, b), question, float(rng.random() < p)))
    return comparisons


def test_each_pair_is_asked_in_a_random_order_of_its_own():
    pairs = questions(ABC, 50)
    orders = question_orders(pairs, 3)
    assert orders == question_orders({p: each[::-1] for p, each in pairs.items()}, 3)
    assert all(sorted(orders[pair]) == sorted(each) for pair, each in pairs.items())
    places = [[question.split("/")[1] for question in each] for each in orders.values()]
    assert len({tuple(each) for each in places}) == 3
    assert orders != question_orders(pairs, 4)


def test_a_chain_through_all_models_comes_first_then_every_other_pair():
    models = ["a", "b", "c", "d"]
    batch = next_questions(models, [], questions(models, 9), 6)
    assert [pair for pair, _ in batch] == [
        *[("a", "b"), ("b", "c"), ("c", "d")],
        *[("a", "c"), ("b", "d"), ("a", "d")],
    ]
    assert {question.split("/")[1] for _, question in batch} == {"0"}


def variances(counts, strengths):
    """Sum of the variances of all win rates by the information of Bradley-Terry, by hand."""
    n = len(strengths)
    information = np.zeros((n, n))
    gradients = []
    for a, b in combinations(range(n), 2):
        x = np.zeros(n)
        x[[a, b]] = 1, -1
        p = 1 / (1 + np.exp(strengths[b] - strengths[a]))
        information += (counts[a, b] + 1 / (n - 1)) * p * (1 - p) * np.outer(x, x)
        gradients.append(p * (1 - p) * x)
    inverse = np.linalg.pinv(information)
    return sum(g @ inverse @ g for g in gradients)


def test_the_next_question_lowers_the_variances_most():
    comparisons = [
        *games(("a", "b"), 12, 7),
        *games(("b", "c"), 5, 5),
        *games(("a", "c"), 9, 8),
    ]
    fit = fit_bradley_terry(ABC, comparisons)
    values = [fit.strengths[model] for model in ABC]
    counts = {(0, 1): 12, (1, 2): 5, (0, 2): 9}
    expected = []
    for _ in range(8):
        after = {pair: variances(counts | {pair: n + 1}, values) for pair, n in counts.items()}
        best = min(after, key=after.get)
        counts[best] += 1
        expected.append((ABC[best[0]], ABC[best[1]]))
    batch = next_questions(ABC, comparisons, questions(ABC, 50), 8)
    assert [pair for pair, _ in batch] == expected
    assert len({*expected}) > 1


def test_questions_of_a_pair_come_in_order_and_whatever_the_side():
    left = {("b", "a"): ["q3", "q1"], ("a", "c"): [], ("c", "b"): ["q9"]}
    batch = next_questions(ABC, [], left, 10)
    assert batch == [(("b", "a"), "q3"), (("c", "b"), "q9"), (("b", "a"), "q1")]


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(0, 4), st.integers(0, 60), st.integers(1, 7))
def test_nothing_is_asked_twice_nor_beyond_the_budget_and_a_large_one_asks_everything(
    n_models, n_prompts, budget, size
):
    models = [f"m{k}" for k in range(n_models)]
    left = question_orders(questions(models, n_prompts), 0)
    total = sum(map(len, left.values()))
    done, comparisons = [], []
    while batch := next_questions(models, comparisons, left, min(size, budget - len(done))):
        for pair, question in batch:
            done.append(question)
            left[pair].remove(question)
            comparisons.append(compare(pair, question, 0.5 + 0.5 * (len(done) % 2)))
    assert len(done) == len({*done}) == min(budget, total)


def test_the_choice_depends_on_the_answers_alone():
    strengths = {"a": 0.0, "b": 0.5, "c": 2.0}
    first, again = run(strengths, 60), run(strengths, 60)
    assert first == again
    left = questions(ABC, 50)
    assert next_questions(ABC, first, left, 20) == next_questions(ABC, first[::-1], left, 20)


def test_calls_go_to_models_that_are_close_and_narrow_their_intervals():
    """Two close pairs far apart: spread evenly, the calls leave them 1.2 times as wide."""
    strengths = {"a": 0.0, "b": 0.3, "c": 3.0, "d": 3.3}
    adaptive, even = run(strengths, 240), run(strengths, 240, adaptive=False)
    n = {
        pair: sum({each.a, each.b} == {*pair} for each in adaptive)
        for pair in model_pairs([*strengths])
    }
    assert n["a", "b"] + n["c", "d"] > 0.6 * 240
    report, evenly = budget_report([*strengths], adaptive), budget_report([*strengths], even)
    assert evenly["uniform_width"] == pytest.approx(evenly["width"])
    assert evenly["uniform_comparisons"] == 240
    assert report["width"] * 1.2 < evenly["width"]
    assert report["uniform_width"] == pytest.approx(evenly["width"], rel=0.15)
    assert report["uniform_comparisons"] > 1.4 * 240


def test_an_even_spread_would_need_its_comparisons_for_the_same_width():
    """One pair of two models can only be spread evenly."""
    report = budget_report(["a", "b"], games(("a", "b"), 30, 20))
    assert report["uniform_width"] == pytest.approx(report["width"])
    assert report["uniform_comparisons"] == 30


def test_intervals_of_adaptive_comparisons_hold_equal_models():
    """At least 90 % of the intervals of 150 repeats, though what is asked follows from wins."""
    strengths = dict.fromkeys("abc", 0.0)
    hits = []
    for seed in range(150):
        fit = fit_bradley_terry([*strengths], run(strengths, 60, size=12, seed=seed))
        for a, b in model_pairs([*strengths]):
            low, high = fit.difference(a, b).ci95
            hits.append(low <= 0 <= high)
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize("models", [["a"], ABC])
def test_nothing_is_reported_without_comparisons(models):
    assert set(budget_report(models, []).values()) == {None}
    assert next_questions(models, [], {}, 5) == []
