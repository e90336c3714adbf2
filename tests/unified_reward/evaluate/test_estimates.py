"""Means, shares, differences and correlations of models, over prompts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.bench.metrics import wilson
from unified_reward.core.samples import Example, Image, Task
from unified_reward.evaluate.estimates import (
    AverageRate,
    Estimate,
    between,
    correlate,
    flip_share,
    mean_estimate,
    mean_interval,
    median_estimate,
    paired_difference,
    prompt_key,
    prompt_means,
    score_comparisons,
    share_estimate,
    share_interval,
    shares_against_all,
    spread_estimate,
    vote_comparisons,
    win_rate,
    win_shares,
)
from unified_reward.evaluate.outputs import Comparison
from unified_reward.io.vote_rows import Vote


NAN = math.nan
ESTIMATES = (mean_estimate, share_estimate, median_estimate, spread_estimate)


def by_prompt(values):
    return {f"p{k}": float(value) for k, value in enumerate(values)}


def test_every_prompt_has_the_same_weight_whatever_its_number_of_files():
    means = prompt_means({"p1": [1.0, 2.0, 3.0], "p2": [5.0, NAN], "p3": [NAN], "p4": []})
    assert means == {"p1": 2.0, "p2": 5.0}
    assert mean_estimate(means).value == 3.5


def test_the_interval_of_a_mean_is_student_s():
    """Values 1 to 5: mean 3, deviation sqrt(2.5), t of four degrees 2.776445."""
    half = 2.776445 * math.sqrt(2.5 / 5)
    estimate = mean_estimate(by_prompt([1, 2, 3, 4, 5]))
    assert (estimate.value, estimate.n) == (3, 5)
    assert estimate.ci95 == pytest.approx((3 - half, 3 + half), abs=1e-5)


def test_the_interval_of_a_mean_on_a_scale_is_student_s_on_the_logit():
    """Values 1, 3, 5 on 1 to 5: mean 3, half 4.302653 * 2 / sqrt(3), so 4.968 on logits."""
    low, high = mean_estimate(by_prompt([1, 3, 5]), (1, 5)).ci95
    width = 4.302653 * 2 / math.sqrt(3) / (4 * 0.25)
    assert low == pytest.approx(1 + 4 / (1 + math.exp(width)), abs=1e-5)
    assert high == pytest.approx(6 - low)


def test_no_interval_leaves_the_scale_of_its_values():
    assert mean_interval(3.0, 2.6) == pytest.approx((0.4, 5.6))
    assert mean_interval(3.0, 2.6, (1, None)) == pytest.approx((1, 5.6))
    assert mean_interval(5.0, 0.0, (1, 5)) == (5, 5)
    assert mean_interval(7.0, 1.0, (1, 5)) == (6, 8)  # no scale of these values
    near = math.nextafter(-1.7, -5)  # whose place on the scale is rounded to 1
    assert mean_interval(near, 0.5, (-5, -1.7)) == pytest.approx((-2.2, -1.7))
    lead = {f"p{k}": value for k, value in enumerate((4.0, -4.0))}
    zero = dict.fromkeys(lead, 0.0)
    assert paired_difference(lead, zero, 4.0).ci95 == (-4, 4)
    shares = [Comparison(f"p{k}", "a", "b", float(k)) for k in (0, 1)]
    assert AverageRate.of(shares, "a").minus(AverageRate.of(shares, "b")).ci95 == (-1, 1)


@given(
    st.lists(st.floats(1, 5), min_size=2, max_size=9).filter(lambda values: len(set(values)) > 1)
)
def test_an_interval_on_a_scale_holds_its_mean_and_stays_on_it(values):
    estimate = mean_estimate(by_prompt(values), (1, 5))
    low, high = estimate.ci95
    assert 1 <= low <= estimate.value <= high <= 5


def test_means_of_few_skewed_scores_lie_in_95_percent_of_their_intervals():
    """Ten scores of 1 to 5, mostly 5: the symmetric interval holds the mean in 92 % of the runs."""
    shares, scores = [0.01, 0.02, 0.07, 0.2, 0.7], [1, 2, 3, 4, 5]
    true = float(np.dot(shares, scores))
    samples = np.random.default_rng(0).choice(scores, p=shares, size=(1000, 10))
    intervals = {
        scale: [mean_estimate(by_prompt(row), scale).ci95 for row in samples]
        for scale in ((1, 5), (None, None))
    }
    covered = {
        scale: np.mean([low <= true <= high for low, high in each])
        for scale, each in intervals.items()
    }
    assert covered[1, 5] > 0.94 > 0.93 > covered[None, None]


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_no_prompt_has_no_figure_and_a_single_one_no_interval(estimate):
    assert estimate({}).row("mean") == {"mean": None, "ci95": None, "n": 0}
    single = estimate({"p1": 0.25})
    assert (single.ci95, single.n) == (None, 1)
    assert single.value == (None if estimate is spread_estimate else 0.25)


def test_median_and_spread_are_those_of_prompts_and_lie_in_their_intervals():
    values = by_prompt([1, 2, 3, 4, 100, 6, 7])
    median, spread = median_estimate(values), spread_estimate(values)
    assert median.value == 4
    assert spread.value == pytest.approx(np.std([1, 2, 3, 4, 100, 6, 7], ddof=1))
    assert 1 <= median.ci95[0] <= 4 <= median.ci95[1] <= 100
    assert 0 <= spread.ci95[0] <= spread.value <= spread.ci95[1]
    assert median == median_estimate(values)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=200))
def test_the_interval_of_wins_and_losses_is_wilson_s(values):
    ci95 = share_estimate(by_prompt(values)).ci95
    assert ci95 == pytest.approx(wilson(sum(values), len(values)), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_the_interval_of_shares_holds_the_share_and_stays_between_0_and_1(values):
    estimate = share_estimate(by_prompt(values))
    low, high = estimate.ci95
    assert 0 <= low <= estimate.value + 1e-9
    assert estimate.value - 1e-9 <= high <= 1
    assert low < high


def test_equal_shares_leave_room_for_prompts_that_were_not_seen():
    """50 ties: another outcome is 6 % of the prompts at most, and those move the share by half."""
    low, high = share_estimate(by_prompt([0.5] * 50)).ci95
    assert 0.44 < low < 0.49
    assert low + high == pytest.approx(1)


def draw_votes(rng, n):
    return (rng.random(n) < 0.9).astype(float)


def draw_probabilities(rng, n):
    return rng.beta(2.8, 1.2, n)


def draw_mostly_ties(rng, n):
    return rng.choice([0.0, 0.5, 1.0], n, p=[0.02, 0.9, 0.08])


def draw_files(rng, n):
    return rng.binomial(4, rng.beta(1.6, 0.4, n)) / 4


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (draw_votes, 0.9),
        (draw_probabilities, 0.7),
        (draw_mostly_ties, 0.53),
        (draw_files, 0.8),
    ],
)
@pytest.mark.parametrize("n", [8, 40])
def test_shares_lie_in_95_percent_of_their_intervals(draw, truth, n):
    """At least 92.5 % of 1,000 repeats, three and a half standard errors below."""
    rng = np.random.default_rng(0)
    intervals = [share_estimate(by_prompt(draw(rng, n))).ci95 for _ in range(1000)]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.925


def test_a_share_beyond_1_is_1():
    assert share_interval(1.01, 0.001, 20)[1] == 1
    assert share_interval(-0.01, 0.001, 20)[0] == 0


def test_a_paired_difference_is_over_the_prompts_of_both():
    model, baseline = by_prompt([5, 7, 9]), {"p1": 4.0, "p2": 8.0, "px": 100.0}
    assert paired_difference(model, baseline).row("difference") == {
        "difference": 2.0,
        "ci95": [pytest.approx(2 - 12.7062), pytest.approx(2 + 12.7062)],
        "n": 2,
    }


def test_scores_decide_the_comparisons_of_files_in_the_same_place():
    scores = {
        "new": {"p1": (3.0, NAN, 2.0), "p2": (1.0,), "p3": (1.0,)},
        "old": {"p1": (2.0, 1.0, 2.0, 9.0), "p2": (4.0,)},
    }
    comparisons = score_comparisons(scores, [("new", "old")])
    assert [(each.prompt, each.probability) for each in comparisons] == [
        ("p1", 1.0),
        ("p1", 0.5),
        ("p2", 0.0),
    ]
    assert win_rate(comparisons, "new", "old").value == 0.375
    assert win_rate(comparisons, "old", "new").value == 0.625
    assert win_rate(comparisons, "new", "other").row() == {"value": None, "ci95": None, "n": 0}


def test_comparisons_are_seen_from_either_side():
    comparisons = [
        Comparison("p1", "a", "b", 0.75, True, (0.7, 0.8)),
        Comparison("p1", "c", "a", 0.25),
        Comparison("p2", "b", "c", 1.0),
    ]
    [mirrored] = between(comparisons, "b", "a")
    assert (mirrored.a, mirrored.probability) == ("b", 0.25)
    assert mirrored.orders == pytest.approx((0.3, 0.2))
    assert win_shares(comparisons, "a") == {"p1": [0.75, 0.75]}
    assert win_shares(comparisons, "c") == {"p1": [0.25], "p2": [0.0]}


def test_flips_are_over_comparisons_in_both_orders_by_prompt():
    flags = {"p1": [True, False], "p2": [True, None], "p3": [None]}
    comparisons = [
        Comparison(prompt, "a", "b", 0.5, flag) for prompt, each in flags.items() for flag in each
    ]
    assert (flip_share(comparisons).value, flip_share(comparisons).n) == (0.25, 2)


def test_rewards_are_correlated_over_the_outputs_that_both_scored():
    x = {"new": {"p1": (1.0, NAN), "p2": (2.0, 3.0)}, "old": {"p1": (5.0,)}, "x": {"p1": (9.0,)}}
    y = {"new": {"p1": (10.0, 0.0), "p2": (20.0, 40.0)}, "old": {"p1": (30.0,)}}
    estimate = correlate(x, y)
    assert estimate.value == pytest.approx(0.8)
    assert estimate.n == 2
    assert correlate(x, {"new": {"p1": (1.0, 1.0), "p2": (1.0, 1.0)}}) == Estimate(None, None, 2)
    assert correlate(x, {}) == Estimate(None, None, 0)


def test_the_interval_of_a_correlation_is_over_prompts():
    """Ten copies of the outputs of each prompt do not narrow it."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2, 40)) + rng.normal(size=40)
    once, often = (
        correlate(*({"m": {p: (v,) * k for p, v in by_prompt(each).items()}} for each in values))
        for k in (1, 10)
    )
    assert often.value == pytest.approx(once.value)
    assert often.ci95 == pytest.approx(once.ci95, abs=1e-9)


def vote(item, choice, rater, prompt="p1", **more):
    example = Example(
        Task.IMAGE_GENERATION,
        "a cat",
        (Image("a.png"), Image("b.png")),
        id=item,
        tags={"prompt_id": prompt},
    )
    return Vote(example, "new", "old", choice, rater, 1.0, "ab", "2026-11-30T00:00:00Z", **more)


def test_votes_on_an_item_are_one_comparison():
    votes = [
        *(vote("i1", choice, rater) for rater, choice in enumerate(["a", "a", "both_bad", "b"])),
        vote("i1", "cannot_tell", "z"),
        vote("i2", "tie", "x", "p2"),
        vote("g", "a", "x", gold="a"),
        vote("i2 #2", "b", "x", "p2", repeats="i2"),
        vote("i3", "cannot_tell", "x", "p3"),
    ]
    assert vote_comparisons(votes) == [
        Comparison("p1", "new", "old", 0.625),
        Comparison("p2", "new", "old", 0.5),
    ]


def test_a_prompt_without_an_id_is_its_text_and_its_context():
    example = Example(
        Task.IMAGE_UNDERSTANDING, "how many?", ("two", "six"), (Image("x.png"),), id="i1"
    )
    assert prompt_key(example) == prompt_key(replace(example, id="i2", candidates=("one", "ten")))
    assert prompt_key(example) != prompt_key(replace(example, context=(Image("y.png"),)))
    assert prompt_key(replace(example, tags={"prompt_id": "7"})) == "7"


def test_a_mean_rate_does_not_depend_on_how_often_each_pair_met():
    """a wins 0.9 of b and 0.1 of c; of many comparisons with c it is no worse."""
    few = [Comparison(f"p{i}", "a", "b", 0.9) for i in range(2)]
    many = [Comparison(f"p{i}", "c", "a", 0.9) for i in range(40)]
    others = [Comparison(f"p{i}", "b", "c", 0.5) for i in range(9)]
    rate = AverageRate.of([*few, *many, *others], "a")
    assert rate.estimate().value == pytest.approx(0.5)
    assert rate.estimate().n == 40
    low, high = rate.estimate().ci95
    assert (low, high) == pytest.approx(share_interval(0.5, 0, 4))
    assert AverageRate.of([*few, *others], "a") == AverageRate(None, {}, 0, 2)
    assert rate.minus(AverageRate.of([*few, *others], "a")).value is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=2, max_size=20))
def test_mean_rates_of_complete_comparisons_are_the_means_of_prompts(rows):
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    met = [
        Comparison(f"p{i}", *pair, p)
        for i, row in enumerate(rows)
        for pair, p in zip(pairs, row, strict=True)
    ]
    shares = shares_against_all(met, "abc")
    rates = {model: AverageRate.of(met, model) for model in "abc"}
    for found, expected in (
        (rates["a"].estimate(), share_estimate(shares["a"])),
        (rates["b"].minus(rates["a"]), paired_difference(shares["b"], shares["a"], 1.0)),
    ):
        assert (found.value, found.n) == (pytest.approx(expected.value, abs=1e-9), expected.n)
        assert found.ci95 == pytest.approx(expected.ci95, abs=1e-6)


def test_mean_rates_of_few_comparisons_lie_in_their_intervals():
    """Values of three models are normal; the pair of the two that are close met most often."""
    draw, means = np.random.default_rng(0), {"a": 0.0, "b": 0.3, "c": 2.0}
    chances = {("a", "b"): 0.6, ("a", "c"): 0.15, ("b", "c"): 0.15}
    truth = {pair: 0.5 * math.erfc((means[pair[1]] - means[pair[0]]) / 2) for pair in chances}
    expected = {
        "a": (truth["a", "b"] + truth["a", "c"]) / 2,
        "c": 1 - (truth["a", "c"] + truth["b", "c"]) / 2,
    }
    inside = dict.fromkeys(expected, 0)
    for _ in range(150):
        values = {model: draw.normal(mean, 1, 80) for model, mean in means.items()}
        met = [
            Comparison(f"p{i}", a, b, float(values[a][i] > values[b][i]))
            for (a, b), chance in chances.items()
            for i in np.flatnonzero(draw.random(80) < chance)
        ]
        for model, value in expected.items():
            low, high = AverageRate.of(met, model).estimate().ci95
            inside[model] += low <= value <= high
    assert min(inside.values()) >= 0.91 * 150
