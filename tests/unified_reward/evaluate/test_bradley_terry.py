"""Strengths of models: by hand, against a bootstrap over prompts, and in simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.evaluate.bradley_terry import (
    dispersions,
    fit_bradley_terry,
    laplacian,
    make_games,
    pseudo_inverse,
)
from unified_reward.evaluate.estimates import student_t
from unified_reward.evaluate.outputs import Comparison


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logit(p):
    return math.log(p / (1 - p))


def wins(*outcomes, a="a", b="b"):
    """Comparisons of two models, one a prompt."""
    return [Comparison(f"p{k}", a, b, float(y)) for k, y in enumerate(outcomes)]


def simulate(rng, strengths, n):
    """Wins by Bradley-Terry, all of a prompt by one draw, so that they are far from independent."""
    comparisons = []
    for k in range(n):
        luck = rng.random()
        for a, b in combinations(strengths, 2):
            win = luck < sigmoid(strengths[a] - strengths[b])
            comparisons.append(Comparison(f"p{k}", a, b, float(win)))
    return comparisons


def test_two_models_by_hand():
    """30 wins and 10 losses, half a win and half a loss added: logit(30.5 / 41)."""
    fit = fit_bradley_terry(["a", "b"], wins(*[1] * 30, *[0] * 10))
    p = 30.5 / 41
    assert fit.strengths["a"] == pytest.approx(logit(p) / 2, abs=1e-6)
    assert fit.strengths["b"] == pytest.approx(-logit(p) / 2, abs=1e-6)
    information = 41 * p * (1 - p)
    meat = 40 / 39 * (30 * (1 - p) ** 2 + 10 * p**2) + 0.5 * (p**2 + (1 - p) ** 2)
    half = student_t(39) * math.sqrt(meat) / information
    difference = fit.difference("a", "b")
    assert difference.n == 40
    assert difference.ci95 == pytest.approx((logit(p) - half, logit(p) + half), abs=1e-5)
    strength = fit.rows()["a"]
    assert strength["ci95"] == pytest.approx([side / 2 for side in difference.ci95])
    assert strength["rank"] == [1, 1]


def test_outcomes_that_hardly_vary_are_hardly_corrected():
    """Probabilities of 0.7 and 0.8: dispersion (20 · 0.0025 + 1/2) / (20 · 0.1875 + 1/2)."""
    comparisons = wins(*[0.7, 0.8] * 10)
    games = make_games(["a", "b"], comparisons)
    d = 0.55 / 4.25
    assert dispersions(games, 2)[0, 1] == dispersions(games, 2)[1, 0] == pytest.approx(d)
    difference = fit_bradley_terry(["a", "b"], comparisons).difference("a", "b")
    assert difference.value == pytest.approx(logit((15 + d / 2) / (20 + d)), abs=1e-5)
    wide = fit_bradley_terry(["a", "b"], wins(*[1] * 15, *[0] * 5)).difference("a", "b")
    assert np.ptp(difference.ci95) < np.ptp(wide.ci95) / 2


def test_files_of_one_prompt_are_one_game():
    once = wins(1, 0, 1, 1)
    assert fit_bradley_terry(["a", "b"], once * 5).rows() == (
        fit_bradley_terry(["a", "b"], once).rows()
    )


def test_the_covariance_agrees_with_a_bootstrap_over_prompts():
    """300 refits: a standard deviation has an error of 4 %."""
    rng = np.random.default_rng(4)
    models = {"a": 0.0, "b": 0.5, "c": 1.2}
    comparisons = simulate(rng, models, 150)
    prompts = [comparisons[k : k + 3] for k in range(0, len(comparisons), 3)]
    differences = []
    for _ in range(300):
        chosen = rng.integers(len(prompts), size=len(prompts))
        resample = [
            Comparison(f"{k}", each.a, each.b, each.probability)
            for k, place in enumerate(chosen)
            for each in prompts[place]
        ]
        strengths = fit_bradley_terry([*models], resample).strengths
        differences.append([strengths[a] - strengths[b] for a, b in combinations(models, 2)])
    fit = fit_bradley_terry([*models], comparisons)
    for (a, b), deviation in zip(
        combinations(models, 2), np.std(differences, axis=0, ddof=1), strict=True
    ):
        standard_error = np.ptp(fit.difference(a, b).ci95) / 2 / student_t(149)
        assert standard_error == pytest.approx(deviation, rel=0.15)


@pytest.mark.parametrize("n", [15, 60])
@pytest.mark.parametrize(
    "models", [{"a": 0.0, "b": 0.8}, {"a": 0.0, "b": 0.3, "c": 2.0}], ids=["two", "three"]
)
def test_differences_lie_in_95_percent_of_their_intervals(models, n):
    """At least 91 % of 300 repeats, three standard errors below."""
    rng = np.random.default_rng(1)
    hits = dict.fromkeys(combinations(models, 2), 0)
    for _ in range(300):
        fit = fit_bradley_terry([*models], simulate(rng, models, n))
        for a, b in hits:
            low, high = fit.difference(a, b).ci95
            hits[a, b] += low <= models[a] - models[b] <= high
    assert min(hits.values()) >= 0.91 * 300


outcomes = st.tuples(st.integers(0, 5), st.sampled_from([*combinations("abc", 2)]), st.floats(0, 1))


@settings(deadline=None, max_examples=50)
@given(st.lists(outcomes, max_size=25), st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_side_of_comparisons_matters(rows, random):
    comparisons = [Comparison(f"p{k}", a, b, y) for k, (a, b), y in rows]
    changed = [each.mirrored() if random.random() < 0.5 else each for each in comparisons]
    random.shuffle(changed)
    fit, other = (fit_bradley_terry("abc", each) for each in (comparisons, changed))
    assert sum(fit.strengths.values()) == pytest.approx(0, abs=1e-4)
    for a, b in combinations("abc", 2):
        first, second = fit.difference(a, b), other.difference(a, b)
        assert second.value == pytest.approx(first.value, abs=1e-4)
        assert (second.ci95, first.ci95) == (None, None) or second.ci95 == pytest.approx(
            first.ci95, rel=1e-3, abs=1e-3
        )


def test_a_model_that_always_wins_is_first_by_an_interval_without_false_precision():
    """Wilson's interval of 20 wins is 0.84 to 1."""
    difference = fit_bradley_terry(["a", "b"], wins(*[1] * 20)).difference("a", "b")
    assert difference.value == pytest.approx(logit(20.5 / 21), abs=1e-4)
    low, high = difference.ci95
    assert 0.5 < sigmoid(low) < 0.84
    assert sigmoid(high) > 0.998


def test_a_model_that_always_wins_leaves_the_others_as_they_are():
    """Even if a nearly certain judge tells the other two apart to a hundredth."""
    rng = np.random.default_rng(3)
    close = wins(*rng.normal(0.6, 0.01, 200))
    fit = fit_bradley_terry(["a", "b", "c"], [*close, *wins(*[1] * 200, a="c", b="a")])
    assert fit.difference("a", "b").value == pytest.approx(logit(0.6), abs=0.02)
    assert fit.ranking() == ["c", "a", "b"]
    assert [fit.rank(model) for model in "abc"] == [(2, 2), (3, 3), (1, 1)]


def test_models_without_common_comparisons_have_no_interval_between_them():
    comparisons = [*wins(*[1] * 20, 0), *wins(*[1] * 20, 0, a="c", b="d")]
    fit = fit_bradley_terry("abcde", comparisons)
    assert fit.groups == [["a", "b"], ["c", "d"], ["e"]]
    assert fit.difference("a", "c").ci95 is None
    assert fit.difference("a", "b").ci95[0] > 0
    rows = fit.rows()
    assert {row["ci95"] for row in rows.values()} == {None}
    assert [row["rank"] for row in rows.values()] == [[1, 4], [2, 5], [1, 4], [2, 5], [1, 5]]


@pytest.mark.parametrize("comparisons", [[], wins(1)], ids=["none", "of one prompt"])
def test_too_few_prompts_have_no_interval(comparisons):
    rows = fit_bradley_terry(["a", "b"], comparisons).rows()
    assert [(row["ci95"], row["rank"]) for row in rows.values()] == [(None, [1, 2])] * 2
    assert fit_bradley_terry(["a"], []).rows() == {
        "a": {"strength": 0.0, "ci95": None, "rank": [1, 1]}
    }
    assert fit_bradley_terry([], []).rows() == {}


def test_ranks_are_ranges_where_intervals_hold_0():
    """c beats both; a and b are even."""
    rows = fit_bradley_terry(
        ["a", "b", "c"],
        [
            *wins(*[1, 0] * 20),
            *wins(*[0] * 35, *[1] * 5, b="c"),
            *wins(*[0] * 35, *[1] * 5, a="b", b="c"),
        ],
    ).rows()
    assert [rows[model]["rank"] for model in "abc"] == [[2, 3], [2, 3], [1, 1]]


def test_another_model_is_refused():
    with pytest.raises(KeyError, match="b"):
        fit_bradley_terry(["a"], wins(1))


def test_the_inverse_of_a_laplacian_is_that_on_vectors_around_0():
    weights = np.array([[0, 2, 1], [2, 0, 5], [1, 5, 0.0]])
    matrix = laplacian(weights)
    assert matrix.tolist() == [[3, -2, -1], [-2, 7, -5], [-1, -5, 6]]
    assert pseudo_inverse(matrix) == pytest.approx(np.linalg.pinv(matrix))
