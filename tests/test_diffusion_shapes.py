"""Benchmarks of alignment at a tiny size: both ways learn the same, and the page says what is."""

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import diffusion_shapes
from benchmarks.diffusion_parts import arithmetic
from benchmarks.gpu_parts import alignment


@pytest.fixture(autouse=True)
def one_thread():
    """Also the precision of an earlier training, which accelerate keeps, is forgotten."""
    AcceleratorState._reset_state()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_both_ways_of_dpo_and_grpo_learn_the_same_and_the_page_has_a_row_for_each(monkeypatch):
    monkeypatch.setattr(diffusion_shapes, "peak", diffusion_shapes._peak)
    cost = {"parameters": 11_901_408_320, "network": 100.0, "vae": 25.0, "text": 10.0}
    monkeypatch.setattr(arithmetic, "costs", lambda: {"FLUX.1-dev": cost})
    report = diffusion_shapes.measure("tiny", 2, ("dit",))
    for kind in ("unet", "dit"):
        dpo = report["dpo"][kind]
        assert dpo["largest_difference_of_losses"] < 1e-2, "beta is 2500"
        assert len({*dpo["losses"]["ours"]}) == 2, "weights have changed"
    grpo = report["grpo"]["dit"]
    # Published: four steps, three of them trained; ours: two trained, and one reference.
    assert grpo["passes_of_a_sample"] == {"published": 4 + 3 * 3, "library": 4 + 2 * 3 + 1}
    assert max(grpo["differences"].values()) < 1e-4
    page = diffusion_shapes.page(report)
    assert page.startswith("## Speed of alignment at real shapes\n")
    rows = [line for line in page.splitlines() if line.startswith(("| UNet,", "| DiT,"))]
    assert len(rows) == 2
    assert "| FLUX.1-dev | 11,901 | 100 | 25 | 10 | 1.10 | 1.06 |" in page, "660 : 600, 1980 : 1860"


def test_a_flux_is_trained_by_dpo_and_grpo_with_frozen_weights_in_bfloat16():
    found = alignment.measure("tiny", "cpu")
    assert found["model"]["dtype"] == "bfloat16"
    assert found["dpo"]["trained"] > 0
    assert all(found[name]["step_s"] > 0 for name in ("dpo", "grpo"))
