"""Reward sets: every number derived by hand, and no failure that becomes one."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward_client import (
    SCALES,
    Reward,
    RewardError,
    RewardSet,
    RewardTerm,
    Scale,
    judge_noise,
)


A, B = RewardTerm("a"), RewardTerm("b", weight=2.0)
ROOT = math.sqrt(1.5)
"""z-score of the ends of three equally spaced values: 1 / sqrt(2/3)."""


def combine(terms, values, groups=None, **options):
    return RewardSet(terms, **options).combine(values, groups)


def test_gdpo_is_the_weighted_sum_of_z_scores_in_the_group():
    values = {"a": [1, 2, 3, 10, 30], "b": [5, 5, 8, 1, 2]}
    result = combine([A, B], values, ["x", "x", "x", "y", "y"])
    # b in x: mean 6, variance (1 + 1 + 4) / 3 = 2.
    in_x = [-ROOT - 2 / math.sqrt(2), -2 / math.sqrt(2), ROOT + 4 / math.sqrt(2)]
    assert result.values == pytest.approx([*in_x, -3.0, 3.0])  # in y -1, 1 and twice -1, 1
    assert result.reasons == [""] * 5


def test_a_sum_is_of_scaled_values():
    terms = [RewardTerm("a", 0.5, "pickscore/26"), RewardTerm("b", 2.0, "imagereward(s+2)/4")]
    result = combine(terms, {"a": [20.8, 26], "b": [0.0, 2.0]}, aggregate="sum")
    assert result.values == pytest.approx([0.4 + 1.0, 0.5 + 2.0])
    assert result.scaled == {"a": pytest.approx([0.8, 1.0]), "b": pytest.approx([0.5, 1.0])}


@pytest.mark.parametrize(
    ("name", "raw", "scaled"),
    [
        ("raw", -3.5, -3.5),
        ("pickscore/26", 20.8, 0.8),
        ("unifiedreward/5", 4.0, 0.8),
        ("unifiedreward-2/4", 4.0, 0.75),
        ("rationalrewards/3", 2.5, 0.5),
        ("hpsv3/15", 7.5, 0.5),
        ("hpsv3*0.1", 7.5, 0.75),
        ("imagereward(s+2)/4", 1.0, 0.75),
        ("clip/100", 30.0, 0.3),
        ("clip/30", 30.0, 1.0),
    ],
)
def test_scales_are_those_of_their_trainers(name, raw, scaled):
    assert RewardTerm("a", scale=name).read(raw)[0] == pytest.approx(scaled)
    assert name == "raw" or SCALES[name].source


def test_an_item_of_which_a_reward_failed_has_none_and_counts_for_no_other():
    values = {"a": [1.0, 2.0, 3.0, 50.0], "b": [0.0, 0.0, 0.0, Reward(None, "unparsed: no number")]}
    result = combine([A, B], values)
    assert result.values == [pytest.approx(-ROOT), pytest.approx(0), pytest.approx(ROOT), None]
    assert result.reasons == ["", "", "", "b: unparsed: no number"]
    assert result.scaled["a"][3] == 50.0
    assert result.scaled["b"][3] is None


def test_no_items_have_no_rewards():
    assert combine([A, B], {"a": [], "b": []}).values == []


def test_a_failure_may_raise_or_be_a_value_that_is_named():
    values = {"a": [1.0, None, 3.0]}
    with pytest.raises(RewardError, match="1 of 3 items lack a reward; the first: a: no reward"):
        combine([A], values, on_failure="raise")
    assert combine([A], values, on_failure=-1.0).values == [-1.0, -1.0, 1.0]
    assert combine([A], values, aggregate="sum", on_failure=-1.0).values == [1.0, -1.0, 3.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, np.True_, None])
def test_what_is_no_finite_number_is_a_failure(value):
    result = combine([A], {"a": [1.0, value]}, aggregate="sum")
    assert result.values == [1.0, None]
    assert result.reasons[1]


def test_a_spread_up_to_the_floor_counts_for_nothing():
    values = {"a": [2.0, 2.0, 2.1, 2.1, 1.0, 3.0]}  # spreads 0.05 and 1
    groups = [0, 0, 0, 0, 1, 1]
    result = combine([RewardTerm("a", min_spread=0.1)], values, groups)
    assert result.values == [0, 0, 0, 0, -1, 1]
    assert result.report.figures["a/noise"] == 0.5
    assert combine([A], values, groups).values == pytest.approx([-1, -1, 1, 1, -1, 1])


def test_the_floor_may_be_the_sigmas_of_the_group_in_the_scaled_unit():
    rewards = [Reward(v, sigma=s) for v, s in ((0.0, 3.0), (4.0, 3.0), (0.0, 0.5), (4.0, 0.5))]
    term = RewardTerm("a", scale=Scale(2.0), min_spread="sigma")  # spreads 1; sigmas 1.5, 0.25
    assert combine([term], {"a": rewards}, [0, 0, 1, 1]).values == [0, 0, -1, 1]
    with pytest.raises(ValueError, match="carry no sigma"):
        combine([term], {"a": [1.0, 2.0]})


def test_the_noise_of_a_judge_is_half_the_variance_of_two_scorings():
    assert judge_noise([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(math.sqrt(0.5))


def scored(value, **fields):
    row = {"status": "scored", "scale": fields.pop("scale", None)}
    return Reward(value, row=row, **fields)


def test_an_aspect_or_the_mean_of_all_may_stand_for_the_value():
    rewards = [scored(None, aspects={"style": 2.0, "alignment": 4.0}), scored(3.0)]
    rewards += [scored(None, aspects={"style": None, "alignment": 4.0})]
    terms = [RewardTerm("a", aspect="style"), RewardTerm("a", aspect="mean")]
    result = combine(terms, dict.fromkeys(("a.style", "a.mean"), rewards), aggregate="sum")
    assert result.scaled == {"a.style": [2.0, None, None], "a.mean": [3.0, None, None]}
    assert result.reasons[1].startswith("a.style: the answer lacks the aspect style")
    assert combine([A], {"a": rewards[:1]}).values == [None]


def test_a_reward_that_sits_at_one_of_five_is_reported_at_the_first_batch(caplog):
    rewards = [scored(1.0, scale=[1, 5])] * 24
    rewards_set = RewardSet([RewardTerm("judge", scale="unifiedreward/5"), RewardTerm("b")])
    with caplog.at_level(logging.WARNING, "unified_reward_client"):
        for _ in range(2):
            report = rewards_set.combine({"judge": rewards, "b": range(24)}, [0] * 24).report
    assert report.warnings["judge/constant"].startswith(
        "judge: all 24 values are 1 on its scale [1"
    )
    assert report.figures["judge/ties"] == 1.0
    assert report.figures["judge/spread"] == pytest.approx(0, abs=1e-12)
    assert [record.message for record in caplog.records] == [report.warnings["judge/constant"]]


def test_it_is_reported_too_where_a_trainer_asks_item_by_item():
    rewards = RewardSet([A], aggregate="sum")
    reports = [rewards.combine({"a": [1.0]}).report for _ in range(16)]
    assert [bool(report.warnings) for report in reports] == [False] * 15 + [True]


def test_the_report_has_the_figures_of_every_reward():
    values = {
        "a": [1.0, 1.0, 3.0, 7.0, Reward(None, "late")],
        "b": [-1.0, -1.0, -3.0, 0.0, 0.0],
    }
    report = combine([A, RewardTerm("b")], values, [0, 0, 0, 1, 1]).report
    assert report.figures["a/mean"] == 3.0
    assert report.figures["a/spread"] == pytest.approx(math.sqrt(8 / 9) / 2)  # second group: 0
    assert report.figures["a/ties"] == pytest.approx(1 / 3)  # of three pairs in the first group
    assert report.figures["a/failed"] == pytest.approx(0.2)
    assert report.figures["a~b/correlation"] == pytest.approx(-1.0)
    assert report.reasons == {"a": {"late": 1}, "b": {}}
    assert report.warnings == {"a/failed": "a: 20% failed, most by: late"}
    assert "a/mean 3" in str(report)


def test_a_value_in_another_unit_than_its_scale_is_reported():
    report = combine([RewardTerm("a", scale="pickscore/26")], {"a": [0.21, 0.22]}).report
    assert "pickscore/26 is for logit, 100 cosine" in report.warnings["a/unit"]


def test_groups_of_one_item_are_reported():
    result = combine([A], {"a": [1.0, 2.0]}, ["x", "y"])
    assert result.values == [0.0, 0.0]
    assert "groups/single" in result.report.warnings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardSet([]), "different names"),
        (lambda: RewardSet([A, A]), "different names"),
        (lambda: RewardSet([A], aggregate="mean"), "gdpo or sum"),
        (lambda: RewardSet([A], on_failure=math.nan), "a finite number"),
        (lambda: RewardSet([A], on_failure=False), "a finite number"),
        (lambda: RewardTerm("a", scale="pickscore"), "there is no scale 'pickscore'"),
        (lambda: RewardTerm("a", form="compare"), "score or win_rate"),
        (lambda: RewardTerm("a", min_spread=-1), "min_spread"),
        (lambda: combine([A], {"a": [1.0]}, [0, 1]), "1} rewards and 2 groups"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


VALUE = st.none() | st.floats(-1e3, 1e3, allow_subnormal=False)
ITEMS = st.lists(st.tuples(VALUE, VALUE, st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(ITEMS, st.randoms(), st.sampled_from(["gdpo", "sum"]))
def test_the_order_of_items_is_of_no_consequence(items, random, aggregate):
    def values(rows):
        columns = {"a": [a for a, _, _ in rows], "b": [b for _, b, _ in rows]}
        return combine([A, B], columns, [g for *_, g in rows], aggregate=aggregate).values

    order = random.sample(range(len(items)), len(items))
    expected = values(items)
    for i, moved in zip(order, values([items[i] for i in order]), strict=True):
        assert (moved is None) == (expected[i] is None)
        assert moved is None or moved == pytest.approx(expected[i], rel=1e-6, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(ITEMS)
def test_a_failure_never_becomes_a_number_and_z_scores_are_centred(items):
    groups = [g for *_, g in items]
    columns = {"a": [a for a, _, _ in items], "b": [b for _, b, _ in items]}
    result = combine([A, B], columns, groups)
    assert [v is None for v in result.values] == [None in row for row in items]
    for group in set(groups):
        own = [
            v for v, g in zip(result.values, groups, strict=True) if g == group and v is not None
        ]
        assert sum(own) == pytest.approx(0, abs=1e-4)
        assert all(math.isfinite(v) for v in own)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e3, 1e3), st.integers(1, 9))
def test_a_constant_reward_gives_zeros(value, n):
    assert combine([A], {"a": [value] * n}).values == [0.0] * n


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=9, unique=True),
    st.sampled_from([s for s in SCALES if s != "raw"]),
)
def test_a_scale_changes_no_z_score(values, scale):
    plain, scaled = (combine([RewardTerm("a", scale=s)], {"a": values}) for s in ("raw", scale))
    assert scaled.values == pytest.approx(plain.values)
