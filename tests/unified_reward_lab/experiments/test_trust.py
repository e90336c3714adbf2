"""Benchmark and audit of several judges stand side by side, and the two first are held in pairs."""

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.trust import TrustStudy, page, run


@pytest.fixture(scope="module")
def report():
    judges = {"lazy": "scripted:first", "perfect": "scripted:perfect"}
    return run(TrustStudy(judges, n=2, audited=2))


def test_the_perfect_judge_is_ahead_by_what_the_lazy_one_lacks(report):
    lazy, perfect = (report["judges"][name]["bench"] for name in ("lazy", "perfect"))
    figure = perfect["metrics"]["pair_accuracy"]
    assert (figure["value"], lazy["metrics"]["pair_accuracy"]["value"]) == (1, 0.5)
    ahead = report["ahead"]
    assert (ahead["value"], ahead["lost"], ahead["n"]) == (0.5, 0, figure["n"])


def test_the_audit_finds_the_place_that_the_lazy_judge_leans_to(report):
    found = report["judges"]["lazy"]["audit"]["metrics"]
    assert (found["position_flips"]["value"], found["first_place_pull"]["value"]) == (1, 0.5)
    assert found["distinct_scores"]["value"] <= 2


def test_what_a_table_does_not_know_has_failed_and_is_counted(report):
    """The perfect judge knows the items and none of the questions that an audit makes of them."""
    audited = report["judges"]["perfect"]["audit"]
    assert audited["n_failed"] > 0
    assert report["n_failed"] == audited["n_failed"]


def test_the_page_has_every_cell_and_every_figure_of_the_audit(report):
    text = page(report)
    assert all(f"`{cell}`" in text for cell in CELLS)
    assert all(f"| {name} |" in text for name in report["judges"]["lazy"]["audit"]["metrics"])
    assert "perfect minus lazy 0.500" in text


def test_more_items_audited_than_asked_are_refused():
    with pytest.raises(ConfigError, match="from 1 to n=4, given 5"):
        TrustStudy(n=4, audited=5)
