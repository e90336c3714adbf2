"""The gate asks each item once and reports calibration before and after."""

from dataclasses import replace

import pytest

from unified_reward.bench.run import run_benchmark
from unified_reward.core.extensions import checkpoint_path
from unified_reward.judges.card import Calibration, Card
from unified_reward.judges.registry import open_judge
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.experiments.gate import THRESHOLDS, GateStudy, page, plot, run


N = 12


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The shipped judge with temperatures that make its probabilities equal."""
    folder = tmp_path_factory.mktemp("calm")
    for file in checkpoint_path("tiny_judge").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "unified_reward.json").unlink()
    card = Card.read(checkpoint_path("tiny_judge"))
    replace(card, calibration=Calibration(compare=1e3, score=1e3)).write(folder)
    return folder


@pytest.fixture(scope="module")
def report(calm):
    return run(GateStudy({"shipped": "tiny_judge", "calm": str(calm)}, n=N))


@pytest.mark.slow
def test_the_gate_and_the_benchmark_agree(report):
    bench = run_benchmark("microworld", open_judge("tiny_judge"), limit=N).report
    for cell in CELLS:
        name = "spearman" if cell.endswith("score") else "pair_accuracy_clear"
        row = report["judges"]["shipped"]["cells"][cell]
        assert row[name]["value"] == pytest.approx(bench["groups"][cell][name]["value"], abs=1e-6)
        assert row["threshold"] in THRESHOLDS.values()


def test_temperatures_act_after_and_not_before(report):
    shipped, calm = (report["judges"][name]["reliability"] for name in ("shipped", "calm"))
    for form in ("compare", "score"):
        assert calm[form]["before"] == shipped[form]["before"]
        assert all(one["predicted"] == pytest.approx(0.5, abs=0.01) for one in calm[form]["after"])


def test_the_page_names_every_cell_and_the_plot_is_a_image(report):
    text = page(report)
    assert all(text.count(f"`{cell}`") == 2 for cell in CELLS | EDITING)
    assert "- calm: comparisons 1000.0, scores 1000.0" in text
    assert plot(report).startswith(b"\x89PNG")
