"""The report of the experiment on judges whose faults are known."""

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward_lab.bench.microworld import CLEAR_GAP
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.annotators import AnnotatorStudy, page, run
from unified_reward_lab.microworld import make_example, utility_gap


N = 12


@pytest.fixture(scope="module")
def report():
    judges = {"perfect": "scripted:perfect", "first": "scripted:first", "silent": "scripted:silent"}
    groups = {"scripted": judges, "again": {"perfect": "scripted:perfect"}}
    return run(AnnotatorStudy(groups, reference="perfect", n=N))


def value(report, judge, figure):
    return report["groups"]["scripted"][judge][figure]["value"]


def clear():
    found = []
    for task, form in CELLS.values():
        if form == "compare":
            found += [make_example(task, form, split="test", seed=0, index=i) for i in range(N)]
    return [example.target for example in found if utility_gap(example) >= CLEAR_GAP]


def test_only_pairs_with_a_clear_gap_count(report):
    assert report["n"] == len(clear()) < 4 * N


def test_the_perfect_judge_is_right_everywhere_and_has_no_pull(report):
    for figure in ("both_orders", "one_order", "longer", "shorter"):
        assert value(report, "perfect", figure) == 1
    assert value(report, "perfect", "position") == 0
    assert value(report, "perfect", "both_orders_apart") == 0


def test_a_judge_that_names_the_first_has_all_pull_and_asked_twice_half_the_pairs(report):
    winners = [item.winner for item in clear()]
    assert value(report, "first", "position") == 1
    assert value(report, "first", "both_orders") == 0.5
    assert value(report, "first", "both_orders_apart") == -0.5
    right = winners.count("first") / len(winners)
    assert value(report, "first", "one_order") == right
    assert value(report, "first", "one_order_apart") == pytest.approx(right - 1)


def test_unreadable_verdicts_are_counted_and_wrong(report):
    row = report["groups"]["scripted"]["silent"]
    assert (row["unreadable"], row["both_orders"]["value"]) == (report["n"], 0)
    assert row["position"]["n"] == 0


def test_the_page_has_a_row_for_every_judge(report):
    text = page(report)
    assert "| scripted | first | 0.500 (" in text
    assert "| scripted | silent | 0.000 (" in text
    assert "| again | perfect | 1.000 (" in text


def test_a_reference_that_is_no_judge_is_refused():
    with pytest.raises(ConfigError, match="'few' lacks the reference 'noiseless'; it has perfect"):
        AnnotatorStudy({"few": {"perfect": "scripted:perfect"}})
