"""Figures by hand; and every convention about ties and unreadable answers."""

import hashlib
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.bench.metrics import (
    Metric,
    TieRules,
    bootstrap,
    consistency,
    correlation,
    exact_match_accuracy,
    macro_average,
    mean_interval,
    mean_metric,
    pair_accuracy,
    pair_points,
    paired_difference,
    three_way_accuracy,
    tie_threshold,
    wilson,
)
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed


FIRST, TIE, SECOND = Preferred(1, 0, 0), Preferred(0, 1, 0), Preferred(0, 0, 1)
VERDICTS = {"first": FIRST, "tie": TIE, "second": SECOND}
BALANCED = ["first", "second"] * 500


def spearman(values, labels, *, clusters):
    return correlation("spearman", values, labels, clusters=clusters)


def accuracy(verdicts, labels, *ties):
    return pair_accuracy(verdicts, labels, clusters=range(len(labels)), ties=TieRules(*ties))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_intervals_published_by_newcombe(successes, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share_and_stays_between_0_and_1(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


def test_nothing_is_known_from_no_item():
    assert wilson(0, 0) == (0.0, 1.0)
    empty = mean_metric([], [])
    assert math.isnan(empty.value)
    assert (empty.ci95, empty.n) == ((0.0, 1.0), 0)


def test_duplicated_items_do_not_narrow_the_interval():
    """40 prompts of 10 equal items carry 40 prompts' worth: about sqrt(10) times Wilson's width."""
    points = [float(prompt % 2) for prompt in range(40) for _ in range(10)]
    prompts = [prompt for prompt in range(40) for _ in range(10)]
    clustered, naive = mean_metric(points, prompts), mean_metric(points, range(400))
    width = clustered.ci95[1] - clustered.ci95[0]
    assert clustered.value == naive.value == 0.5
    assert width / (naive.ci95[1] - naive.ci95[0]) == pytest.approx(math.sqrt(10), rel=0.15)


def test_the_bootstrap_is_the_same_for_the_same_seed_and_leaves_nan_out():
    items = np.arange(8.0)

    def mean_unless_first(indices):
        return math.nan if 0 in indices else float(items[indices].mean())

    entry, again = (bootstrap(mean_unless_first, range(8), seed=3) for _ in range(2))
    assert entry == again
    assert 1 <= entry[0] < entry[1] <= 7
    assert entry != bootstrap(mean_unless_first, range(8), seed=4)


def test_a_statistic_that_is_never_defined_has_no_interval():
    assert all(math.isnan(side) for side in bootstrap(lambda _: math.nan, range(4)))


def test_perfect_opposite_constant_and_silent_judges_get_1_0_half_and_0():
    opposite = {"first": SECOND, "second": FIRST}
    assert accuracy([VERDICTS[label] for label in BALANCED], BALANCED).value == 1
    assert accuracy([opposite[label] for label in BALANCED], BALANCED).value == 0
    assert accuracy([FIRST] * 1000, BALANCED).value == 0.5
    assert accuracy([Unparsed("nothing said")] * 1000, BALANCED).value == 0


def test_a_judge_that_guesses_gets_about_half_and_half_lies_in_its_interval():
    """Standard error sqrt(0.25 / 1000) = 0.016; three of them are 0.047."""
    rng = random.Random(5)
    found = accuracy([rng.choice((FIRST, SECOND)) for _ in BALANCED], BALANCED)
    assert abs(found.value - 0.5) < 0.047
    assert found.ci95[0] < 0.5 < found.ci95[1]


@pytest.mark.parametrize(
    "lost",
    [Unparsed("?"), Failed("gone"), Scored(Score(1.0, Scale(0, 1)))],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_preference_is_wrong_and_not_dropped(lost):
    found = accuracy([FIRST, FIRST, FIRST, lost], ["first", "first", "first", "tie"], "keep")
    assert (found.value, found.n) == (0.75, 4)
    assert accuracy([FIRST, lost], ["first", "second"]).value == 0.5


def test_conventions_about_ties_by_hand():
    """Labels 1 = 2 1 = ; said 1 = = 2 1. Right: the first two; the third is a tie said of a win."""
    labels = ["first", "tie", "second", "first", "tie"]
    verdicts = [FIRST, TIE, TIE, SECOND, FIRST]
    figures = {
        ("skip", "half"): (1.5 / 3, 3),
        ("skip", "wrong"): (1 / 3, 3),
        ("keep", "half"): (2.5 / 5, 5),
        ("keep", "wrong"): (2 / 5, 5),
    }
    for (human, judge), (value, n) in figures.items():
        found = accuracy(verdicts, labels, human, judge)
        assert (found.value, found.n) == (pytest.approx(value), n)
    three_way = three_way_accuracy(verdicts, labels, clusters=range(5))
    assert (three_way.value, three_way.n) == (pytest.approx(2 / 5), 5)


def test_verdicts_and_labels_of_different_number_are_refused():
    with pytest.raises(ValueError, match="zip"):
        accuracy([FIRST], ["first", "second"])


def test_consistency_is_over_comparisons_asked_in_both_orders():
    agreed = Preferred(0.9, 0, 0.1, orders=(FIRST, FIRST))
    contradicted = Preferred(0.5, 0, 0.5, orders=(FIRST, SECOND))
    verdicts = [agreed, contradicted, agreed, FIRST, Unparsed("?")]
    found = consistency(verdicts, clusters=range(5))
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


@pytest.mark.parametrize(
    ("values", "labels", "rho"),
    [
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 2, 2, 4], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4
        ([9, 5, 1], [0.1, 0.2, 0.3], -1.0),
    ],
)
def test_spearman_by_hand(values, labels, rho):
    found = spearman(values, labels, clusters=range(len(values)))
    assert (found.value, found.n) == (pytest.approx(rho), len(values))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        # Pairs: 4 concordant, 1 discordant, 1 tied in x: (4 - 1) / sqrt(5 * 6).
        ("kendall_tau_b", 3 / math.sqrt(30)),
        # 2 m (C - D) / (n n (m - 1)) with m = 3, the fewer different values.
        ("kendall_tau_c", 2 * 3 * 3 / (16 * 2)),
        # Deviations -1, 0, 0, 1 and -0.5, -1.5, 0.5, 1.5: 2 / sqrt(2 * 5).
        ("pearson", 2 / math.sqrt(10)),
    ],
)
def test_correlations_by_hand(kind, value):
    found = correlation(kind, [1, 2, 2, 3], [2, 1, 3, 4], clusters=range(4))
    assert found.value == pytest.approx(value)


def test_spearman_leaves_out_what_has_no_score_and_counts_the_rest():
    found = spearman([1, None, 2, 3, None], [1, 99, 2, 3, -99], clusters="aabbc")
    assert (found.value, found.n) == (pytest.approx(1.0), 3)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, 3, 3, 3], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [0, 0, 0, 0]),
        ([1, None, None, 2], [1, 2, 3, 4]),
    ],
    ids=["constant scores", "constant labels", "two scores"],
)
def test_spearman_is_undefined_rather_than_zero(values, labels):
    assert math.isnan(spearman(values, labels, clusters=range(4)).value)


def test_spearman_depends_on_ranks_alone():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 9, 40).tolist(), rng.integers(0, 9, 40).tolist()
    bent = [math.exp(value) for value in values]
    entry, other = (spearman(scores, labels, clusters=range(40)) for scores in (values, bent))
    assert entry == other
    assert entry.ci95[0] < entry.value < entry.ci95[1]


def test_intervals_of_correlations_are_over_prompts_not_items():
    """40 prompts of 10 equal items carry 40 prompts' worth: sqrt(10) times the width by item."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=40)
    scores = true + rng.normal(size=40)
    values, labels = np.repeat(scores, 10).tolist(), np.repeat(true, 10).tolist()
    prompts = np.repeat(np.arange(40), 10).tolist()
    for kind in ("spearman", "pearson"):
        by_prompt = correlation(kind, values, labels, clusters=prompts)
        by_item = correlation(kind, values, labels, clusters=range(400))
        assert by_prompt.value == by_item.value
        width, naive = (metric.ci95[1] - metric.ci95[0] for metric in (by_prompt, by_item))
        assert width / naive == pytest.approx(math.sqrt(10), rel=0.2)
        once = correlation(kind, scores.tolist(), true.tolist(), clusters=range(40))
        assert by_prompt.ci95 == pytest.approx(once.ci95, abs=1e-9)


def test_intervals_of_differences_are_over_prompts_not_items():
    first, second = [0.0] * 400, [float(i // 10 % 2) for i in range(400)]
    by_prompt = paired_difference(first, second, clusters=[i // 10 for i in range(400)])
    by_item = paired_difference(first, second, clusters=range(400))
    width, naive = (found.ci95[1] - found.ci95[0] for found in (by_prompt, by_item))
    assert width / naive == pytest.approx(math.sqrt(10), rel=0.2)


def test_the_interval_of_a_mean_is_that_of_the_bootstrap():
    values, clusters = [0.1, 0.9, 0.4, -2.0, 0.3], "aabcc"
    array = np.array(values)
    plain = bootstrap(lambda indices: float(array[indices].mean()), clusters, seed=5)
    assert mean_interval(values, clusters, seed=5) == pytest.approx(plain)


def test_wilson_of_equal_points_counts_prompts_not_items():
    assert mean_metric([1.0] * 9, "aaabbbccc").ci95 == wilson(3, 3)
    assert mean_metric([0.5] * 4, "aabb").ci95 == wilson(1, 2)


def test_halves_of_prompts_choose_margins_for_each_other():
    """Two prompts in different halves with different margins: each is judged by the other's."""
    halves = {}
    for i in range(20):
        halves.setdefault(hashlib.sha256(str(i).encode()).digest()[0] % 2, i)
    labels, verdicts = ["tie", "tie"], [soft(0.6), soft(0.7)]
    rules = TieRules("keep", "calibrated")
    clusters = [halves[0], halves[1]]
    assert pair_points(verdicts, labels, clusters=clusters, ties=rules) == [1.0, 0.0]
    same = TieRules("keep", "calibrated", "same")
    assert pair_points(verdicts, labels, clusters=clusters, ties=same) == [1.0, 1.0]


def test_the_macro_average_adds_half_widths_in_quadrature():
    metrics = [Metric(0.5, (0.2, 0.8), 4), Metric(0.7, (0.3, 1.1), 6)]
    average = macro_average(metrics)
    assert average.value == pytest.approx(0.6)
    assert average.ci95 == pytest.approx((0.6 - 0.25, 0.6 + 0.25))  # sqrt(0.3² + 0.4²) / 2
    assert average.n == 10


def soft(first):
    return Preferred(first, 0.0, 1 - first)


def test_a_margin_makes_ties_of_what_is_near_and_is_chosen_on_the_other_half():
    """Wins by 0.8, ties by 0.2: every half chooses 0.2, so that all is right in both."""
    labels = ["first", "tie", "second", "tie"] * 50
    verdicts = [soft(0.9), soft(0.6), soft(0.1), soft(0.4)] * 50
    found = accuracy(verdicts, labels, "keep", "calibrated")
    assert found.value == 1
    assert found.conventions == {
        "human_ties": "keep",
        "judge_ties": "calibrated",
        "tie_split": "halves",
    }
    assert accuracy(verdicts, labels, "keep", "calibrated", "same").value == 1
    assert accuracy(verdicts, labels, "keep", "wrong").value == 0.5


def test_without_ties_of_people_the_least_margin_is_taken():
    assert tie_threshold([0.3, -0.1], ["first", "second"]) == 0
    assert tie_threshold([], []) == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.sampled_from(["first", "tie", "second"])), min_size=1)
)
def test_no_margin_is_better_than_the_chosen_one(items):
    margins, labels = [entry / 10 for entry, _ in items], [label for _, label in items]

    def right(limit):
        return sum(
            ("tie" if abs(m) <= limit else "first" if m > 0 else "second") == label
            for m, label in zip(margins, labels, strict=True)
        )

    assert right(tie_threshold(margins, labels)) == max(right(x / 10) for x in range(11))


def test_a_calibrated_margin_makes_no_verdict_of_an_unreadable_answer():
    points = pair_points(
        [Unparsed("?"), soft(0.9)],
        ["tie", "first"],
        clusters="ab",
        ties=TieRules("keep", "calibrated"),
    )
    assert points == [0.0, 1.0]


def test_exact_match_counts_what_was_not_said_as_wrong():
    found = exact_match_accuracy(["a", None, "b", "c"], ["a", "b", "b", "d"], clusters=range(4))
    assert (found.value, found.n) == (0.5, 4)


def test_the_macro_average_weighs_groups_alike():
    found = macro_average([mean_metric([1.0] * 90, range(90)), mean_metric([0.0] * 10, range(10))])
    assert (found.value, found.n) == (0.5, 100)


def test_mcnemar_by_hand():
    """8 items differ, 7 won: 2 (1 + 8) / 2**8 = 0.0703."""
    first = [1, *[0] * 7, *[1] * 12]
    second = [0, *[1] * 7, *[1] * 12]
    found = paired_difference(first, second, clusters=range(20))
    assert (found.won, found.lost, found.n) == (7, 1, 20)
    assert found.p_value == pytest.approx(18 / 256)
    assert found.value == pytest.approx(6 / 20)
    assert found.ci95[0] < found.value < found.ci95[1]


def test_a_judge_against_itself_differs_by_nothing():
    found = paired_difference([0.5, 1, 0], [0.5, 1, 0], clusters="abc")
    assert (found.value, found.ci95, found.p_value) == (0, (0, 0), 1)


def test_judges_without_a_common_item_cannot_be_compared():
    with pytest.raises(ValueError, match="no item"):
        paired_difference([], [], clusters=[])
