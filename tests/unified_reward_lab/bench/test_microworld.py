"""The benchmark gives the controls the figures they must have, and writes the agreed JSON."""

import json

import pytest

from unified_reward.bench.run import run_benchmark
from unified_reward.judges.registry import open_reference
from unified_reward_lab.bench import microworld
from unified_reward_lab.bench.showcase import Showcase, write_showcase
from unified_reward_lab.microworld import utility_gap


N = 6
CELLS = {
    f"{what}_{kind}.{form}"
    for what in ("image", "video")
    for kind in ("generation", "understanding")
    for form in ("score", "compare")
}


def measured(reference, **options):
    records = [item for cell in microworld.test_records(N, 0).values() for item in cell]
    judge = open_reference(reference, truth=records)
    return run_benchmark("microworld", judge, limit=N, **options).report


def figures(report, name):
    return {cell: row[name]["value"] for cell, row in report["groups"].items() if name in row}


@pytest.fixture(scope="module")
def always_first():
    return measured("scripted:first")


@pytest.fixture(scope="module")
def silent():
    return measured("scripted:silent")


@pytest.mark.slow
def test_the_perfect_judge_reaches_1_in_all_eight_cells():
    report = measured("scripted:perfect")
    reached = figures(report, "pair_accuracy") | figures(report, "spearman")
    assert reached == pytest.approx(dict.fromkeys(CELLS, 1.0))
    assert report["metrics"]["three_way_accuracy"]["value"] == 1
    assert (report["n_unparsed"], report["n_failed"]) == (0, 0)


def test_a_judge_that_always_names_the_first_gets_half_when_asked_in_both_orders(always_first):
    assert set(figures(always_first, "pair_accuracy").values()) == {0.5}
    assert set(figures(always_first, "consistency").values()) == {0.0}


def test_in_one_order_it_gets_as_much_as_there_are_labels_first():
    """By count: the share of first among the labels that are no ties."""
    report = measured("scripted:first", orders=1)
    for cell, value in figures(report, "pair_accuracy").items():
        winners = [item.target.winner for item in microworld.test_records(N, 0)[cell]]
        decided = [winner for winner in winners if winner != "tie"]
        assert value == pytest.approx(decided.count("first") / len(decided))
    assert report["metrics"]["consistency"] == {"value": None, "ci95": [0.0, 1.0], "n": 0}


def test_a_constant_score_has_no_rank_correlation(always_first):
    assert set(figures(always_first, "spearman").values()) == {None}


def test_a_silent_judge_is_counted_unreadable_everywhere_and_never_right(silent):
    assert (silent["n"], silent["n_unparsed"], silent["n_failed"]) == (8 * N, 8 * N, 0)
    assert set(figures(silent, "pair_accuracy").values()) == {0.0}
    assert set(figures(silent, "unreadable").values()) == {1.0}
    assert set(figures(silent, "spearman").values()) == {None}


def test_the_report_has_the_agreed_keys_and_is_plain_json(silent):
    assert set(silent) == {
        *("name", "judge", "family", "orders", "seed", "n", "n_unparsed", "n_failed"),
        *("metrics", "groups"),
    }
    assert set(silent["groups"]) == CELLS
    assert json.loads(json.dumps(silent, allow_nan=False)) == silent
    for group in (silent["metrics"], *silent["groups"].values()):
        for metric in group.values():
            assert set(metric) - {"human_ties", "judge_ties", "tie_split"} == {"value", "ci95", "n"}


def test_clear_comparisons_are_those_whose_utilities_differ_by_a_tenth(silent):
    for cell, records in microworld.test_records(N, 0).items():
        if cell.endswith(".compare"):
            gaps = [utility_gap(item) for item in records]
            clear = silent["groups"][cell]["pair_accuracy_clear"]
            assert clear["n"] == sum(gap >= 0.1 for gap in gaps)


def test_another_seed_asks_other_items():
    item, other = (microworld.test_records(3, seed) for seed in (0, 1))
    for cell in CELLS:
        prompts = [{record.sample.id for record in series[cell]} for series in (item, other)]
        assert not prompts[0] & prompts[1]


def test_progress_counts_every_item():
    steps = []
    run_benchmark("microworld", open_reference("scripted:tie"), limit=3, on_progress=steps.append)
    assert sum(steps) == 24


def test_the_showcase_shows_every_task_the_losses_and_the_figures(tiny, silent, tmp_path):
    page = tmp_path / "page.html"
    reports = {"bench": silent, "judge": {"losses": [[1, 2.5], [2, 1.5]]}}
    visible = write_showcase(tiny, Showcase(each=1), reports, page)
    assert visible["shown"] == 8
    text = page.read_text("utf-8")
    for title in ("Image generation", "Image understanding", "Video generation"):
        assert title in text
    assert "Loss of the judge" in text
    assert f"{8 * N} unreadable" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    if visible["real"]:
        assert "only ever seen the microworld" in text
