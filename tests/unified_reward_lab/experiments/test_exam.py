"""The exam counts what is right to the letter."""

import pytest

from unified_reward_lab.experiments.exam import ExamStudy, page, run
from unified_reward_lab.microworld.items import TASKS


@pytest.fixture(scope="module")
def report(checkpoints):
    return run(ExamStudy({"shipped": "tiny_base", "random": str(checkpoints["qwen3_vl"])}, n=4))


@pytest.mark.slow
def test_the_shipped_base_answers_and_a_random_one_does_not(report):
    shipped, guessing = report["models"]["shipped"], report["models"]["random"]
    assert set(shipped) == {str(task) for task in TASKS}
    assert sum(row["right"] for row in guessing.values()) == 0
    assert sum(row["right"] for row in shipped.values()) >= 8  # 0.5 of 16; measured above 0.9
    assert report["n_failed"] == 0


def test_the_page_has_a_row_a_task(report):
    text = page(report)
    assert text.count("| shipped |") == 4
    assert "| random | questions about videos | 0.000 (0.000 to" in text
